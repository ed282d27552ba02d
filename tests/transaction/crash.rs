//! Braid killed during ADD.

use std::fs;

use crate::support::{Case, Plugin, recorder};

/// A plugin whose first ADD kills Braid, and whose DEL finds nothing to do.
const KILLER: &str = r#"[ "$CNI_COMMAND" = ADD ] || exit 0
cat >"$RECORDER_DIR/killer-was-here.new"
if [ -e "$RECORDER_DIR/killer-was-here" ]; then
    echo '{"cniVersion": "1.0.0"}'
else
    mv "$RECORDER_DIR/killer-was-here.new" "$RECORDER_DIR/killer-was-here"
    kill -9 "$PPID"
fi"#;

/// `alpha` on eth0, the killer on net1, and `gamma` on net2, after the kill. It cannot be known that `gamma` was not started,
/// because the last lines of the journal may be lost.
fn killed() -> Case {
    let case = Case::new().script("killer", KILLER);
    let case =
        case.delegate(recorder("alpha")).delegate(Plugin::new("net-killer", "killer")).delegate(recorder("gamma"));
    let output = case.call("ADD").output();
    assert_eq!(output.status.code(), None, "Braid was to be killed: {output:?}");
    assert_eq!(case.order(), ["ADD alpha eth0"]);
    case
}

#[test]
fn del_undoes_what_a_killed_add_has_done() {
    killed().del().succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn add_undoes_a_killed_add_first_and_goes_on() {
    let case = killed();
    case.add().succeeds().called(&["DEL gamma net2", "DEL alpha eth0", "ADD alpha eth0", "ADD gamma net2"]);
    case.del().succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn gc_undoes_what_a_killed_add_has_done() {
    let case = killed().cni_version("1.1.0");
    case.gc(&[]).succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn a_journal_with_a_torn_last_line_is_read() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    case.add().succeeds();
    let whole = fs::read(&journal).expect("the journal");
    let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("more than a line") + 1;
    for length in [last_line, last_line + 1, usize::midpoint(last_line, whole.len()), whole.len() - 1] {
        // The previous DEL has removed the folder.
        fs::create_dir_all(journal.parent().expect("a folder")).expect("make the folder");
        fs::write(&journal, &whole[..length]).expect("tear the journal");
        case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_set_aside_and_reported() {
    let case = Case::new().delegate(recorder("alpha"));
    let folder = case.dir().join("state/attachments").join(Case::CONTAINER);
    let debts = case.dir().join("state/debts").join(Case::CONTAINER);
    case.add().succeeds();
    fs::write(folder.join("eth0.jsonl"), "{\"format\": no journal\n{}\n").expect("spoil the journal");
    case.del().fails_with_any_code().says("eth0.jsonl");
    let names: Vec<_> = fs::read_dir(&debts).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert!(names.iter().any(|name| name.to_string_lossy().contains(".corrupt")), "{names:?}");
}
