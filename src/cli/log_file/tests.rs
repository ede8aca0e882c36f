use super::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_full_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.log");
    let rotation = Rotation::parse(r#"{"maxsize": 1}"#).unwrap();
    let mut file = RotatingFile::open(&crate::runtime::tokio::env(), &path, rotation).unwrap();
    let line = vec![b'x'; 300 << 10];
    for _ in 0..5 {
        file.write_all(&line).unwrap();
    }
    let names = names(dir.path());
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names[0].starts_with("etcd-20") && names[0].ends_with(".log"),
        "{names:?}"
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 600 << 10);
}

#[test]
fn old_files_are_compressed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.log");
    for name in [
        "etcd-2026-01-01T00-00-00.000.log.gz",
        "etcd-2026-01-08T00-00-00.000.log",
        "etcd-2026-01-09T00-00-00.000.log",
        "etcd-2026-01-10T00-00-00.000.log",
        "etcd-other.log",
    ] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let now: jiff::Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
    let now = Duration::from_secs(now.as_second() as u64);
    let rotation = Rotation::parse(r#"{"maxage": 7, "maxbackups": 2, "compress": true}"#).unwrap();
    tidy(&path, &rotation, now).unwrap();
    let expected = [
        "etcd-2026-01-09T00-00-00.000.log.gz",
        "etcd-2026-01-10T00-00-00.000.log.gz",
        "etcd-other.log",
    ];
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn what_is_no_configuration_is_refused() {
    let refused = |text: &str, begin: &str| {
        let error = Rotation::parse(text).unwrap_err();
        assert!(error.starts_with(begin), "{error}");
    };
    refused("{", "improperly formatted log rotation config: ");
    refused(r#"{"maxsize": "many"}"#, "invalid log rotation config: ");
}
