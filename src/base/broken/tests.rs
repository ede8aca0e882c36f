use super::*;

fn damage() -> Broken {
    Broken::Damaged {
        what: "log segment",
        path: "/data/1.log".into(),
        offset: 512,
        how: "its header is not whole".into(),
    }
}

#[test]
fn the_texts_that_operators_know() {
    let io = |kind: io::ErrorKind| Broken::io("could not write", Path::new("/data/x"), &kind.into());
    let foreign = Broken::Foreign {
        path: "/data/1.log".into(),
        theirs: [0xab; 16],
        ours: [1; 16],
    };
    let level = Broken::OtherRelease {
        what: "the cluster".into(),
        found: Unknown::Level {
            needed: Level(9),
            known: Level(2),
        },
    };
    let entry = Broken::OtherRelease {
        what: "entry 7 of the log".into(),
        found: Unknown::Entry(3),
    };
    for (broken, text) in [
        (
            damage(),
            "log segment /data/1.log is damaged at offset 512: its header is not whole",
        ),
        (
            Broken::damaged_file(Path::new("/data/synced")),
            "file /data/synced is damaged at offset 0",
        ),
        (
            io(io::ErrorKind::StorageFull),
            "could not write /data/x: the disk is full (no storage space): free space, then restart",
        ),
        (
            io(io::ErrorKind::PermissionDenied),
            "could not write /data/x: permission denied",
        ),
        (
            foreign,
            "log segment /data/1.log belongs to abababababababababababababababab, but this member is \
             01010101010101010101010101010101: the data directory is another cluster's or another member's",
        ),
        (
            level,
            "the cluster has level 9, and this release knows up to level 2: start a newer release on this data \
             directory",
        ),
        (
            entry,
            "entry 7 of the log: version 3 of the entry's format, which this release does not know: start a newer \
             release",
        ),
        (
            Broken::record(RevisionAt::new(4, 2), BadRecord::Beyond(3)),
            "record 4_2 lies beyond revision 3",
        ),
        (Broken::malformed("a stored lease"), "a stored lease is malformed"),
        (Broken::unreadable("stored auth", "no"), "stored auth: no"),
    ] {
        assert_eq!(broken.to_string(), text);
    }
}

#[test]
fn it_keeps_its_type_on_its_way_through_raft() {
    let error = io::Error::from(damage());
    assert_eq!(Broken::inside(&error), Some(&damage()));
    assert_eq!(error.to_string(), damage().to_string());
    assert_eq!(Broken::inside(&io::ErrorKind::NotFound.into()), None);
    let stopped = Broken::Raft {
        text: format!("when Read Logs: {error}"),
        cause: Some(Arc::new(damage())),
    };
    assert_eq!(stopped.root(), &damage());
    assert_eq!(damage().root(), &damage());
}

/// Every answer of the store is a `Result` of it, on hot paths too.
#[test]
fn it_is_no_larger_than_what_is_read() {
    assert!(size_of::<Broken>() <= 88, "{}", size_of::<Broken>());
}
