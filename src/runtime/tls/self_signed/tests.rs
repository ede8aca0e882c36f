use super::*;

#[test]
fn a_certificate_is_made_once_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("fixtures");
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (cert, key) = ensure(&dir, &hosts, 1).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read(&cert).unwrap();
    ensure(&dir, &hosts, 1).unwrap();
    assert_eq!(fs::read(&cert).unwrap(), first);
    assert!(ensure(&dir, &hosts, 0).is_err());
}
