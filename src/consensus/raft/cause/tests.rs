use openraft::StorageError;
use openraft::impls::BoxedErrorSource;

use super::*;

#[test]
fn what_was_broken_below_raft_is_known_when_raft_has_stopped() {
    let damage = Broken::damaged_file("/data/current".as_ref());
    let error = io::Error::from(damage.clone());
    let fatal = Fatal::StorageError(StorageError::read_logs(Cause::from_error(&error)));
    let stopped = stopped("raft cannot start: ", &fatal);
    assert_eq!(stopped.root(), &damage);
    assert_eq!(
        stopped.to_string(),
        "raft cannot start: when Read Logs: std::io::error::Error: file /data/current is damaged at offset 0"
    );
}

#[test]
fn its_text_is_the_one_that_openraft_would_keep() {
    for error in [
        io::Error::from(io::ErrorKind::NotFound),
        Broken::malformed("x").into(),
    ] {
        let (ours, theirs) = (Cause::from_error(&error), BoxedErrorSource::from_error(&error));
        assert_eq!(ours.to_string(), theirs.to_string());
    }
    assert_eq!(Cause::from_string("why").to_string(), "why");
    assert_eq!(stopped("", &Fatal::Panicked).to_string(), "panicked");
}
