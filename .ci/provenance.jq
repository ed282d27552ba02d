# Reads the lines of sha256sum, and prints a statement of in-toto (v1) with the predicate of SLSA's provenance (v1). Where a
# workflow of GitHub makes the release, $source, $server and $run say which; elsewhere the builder is whoever signs it.
[inputs | capture("^(?<sha256>[0-9a-f]{64})  (?<name>.+)$") | {name, digest: {sha256}}] as $subjects
| ($source | if . == "" then null else "git+\($server)/\(.)" end) as $repository
| {
    _type: "https://in-toto.io/Statement/v1",
    subject: $subjects,
    predicateType: "https://slsa.dev/provenance/v1",
    predicate: {
        buildDefinition: {
            buildType: "urn:braid:release:v1",
            externalParameters: {command: ".ci/release", version: $version},
            internalParameters: {SOURCE_DATE_EPOCH: $epoch},
            resolvedDependencies: [
                ({name: "source", digest: {gitCommit: $commit}} + (if $repository then {uri: $repository} else {} end)),
                {name: "Cargo.lock", digest: {sha256: $lock}},
                {name: "rustc", annotations: {version: $rustc}}
            ]
        },
        runDetails: (
            if $repository
            then {builder: {id: "\($server)/\($source)/.github/workflows/release.yml"}, metadata: {invocationId: "\($server)/\($source)/actions/runs/\($run)"}}
            else {builder: {id: "urn:braid:builder:local"}}
            end
        )
    }
}
