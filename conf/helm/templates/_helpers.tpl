{{/* The name of all objects: two releases in one cluster would write the same files on its nodes. */}}
{{- define "braid.name" -}}braid{{- end }}

{{- define "braid.labels" -}}
app.kubernetes.io/name: braid
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What a kind of node differs in. */}}
{{- define "braid.presets" -}}
default: {}
aks: {}
eks: {}
flatcar: {}
rke2: {}
talos: {}
# SELinux enforces, and only this type may write to the directories of plugins and configurations.
bottlerocket:
  seLinuxOptions: {user: system_u, role: system_r, type: super_t, level: s0}
# /opt is read-only.
gke:
  binDir: /home/kubernetes/bin
# From the releases of October 2024 on; before, plugins were in data/current/bin.
k3s:
  confDir: /var/lib/rancher/k3s/agent/etc/cni/net.d
  binDir: /var/lib/rancher/k3s/data/cni
microk8s:
  confDir: /var/snap/microk8s/current/args/cni-network
  binDir: /var/snap/microk8s/current/opt/cni/bin
# As the cluster network operator lays them out. Its pods need a security context constraint too.
openshift:
  confDir: /etc/kubernetes/cni/net.d
  binDir: /var/lib/cni/bin
  seLinuxOptions: {type: spc_t}
  securityContextConstraint: privileged
{{- end }}

{{/* What holds for the nodes of this release, as YAML: the preset, and what is set beside it. */}}
{{- define "braid.node" -}}
{{- $presets := include "braid.presets" . | fromYaml }}
{{- if not (hasKey $presets .Values.preset) }}
{{- fail (printf "preset is %q, expected one of: %s" .Values.preset (keys $presets | sortAlpha | join ", ")) }}
{{- end }}
{{- $node := dict "confDir" "/etc/cni/net.d" "binDir" "/opt/cni/bin" "seLinuxOptions" dict }}
{{- $node = merge (get $presets .Values.preset) $node }}
{{- range $key := list "confDir" "binDir" "seLinuxOptions" }}
{{- with get $.Values $key }}{{ $_ := set $node $key . }}{{ end }}
{{- end }}
{{- toYaml $node }}
{{- end }}

{{/* The image: REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST. */}}
{{- define "braid.image" -}}
{{- $registry := .Values.global.systemDefaultRegistry | default .Values.image.registry }}
{{- with $registry }}{{ . | trimSuffix "/" }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What `braid install --with` gets: keys of Braid's configuration, as JSON. Nothing if there are none. */}}
{{- define "braid.with" -}}
{{- $with := deepCopy .Values.config }}
{{- if .Values.namespaceIsolation }}{{ $_ := set $with "namespaceIsolation" true }}{{ end }}
{{- with .Values.policy }}{{ $_ := set $with "policy" . }}{{ end }}
{{- with $with }}{{ toJson . }}{{ end }}
{{- end }}
