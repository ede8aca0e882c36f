use super::*;

#[test]
fn lists_are_parsed_as_etcd_does() {
    let check = |text: &str, expected: Result<usize, &str>| {
        assert_eq!(
            parse(text).map(|set| set.len()).map_err(|error| error.clone()),
            expected.map_err(str::to_owned)
        );
    };
    check("", Ok(0));
    check("InitialCorruptCheck=true, LeaseCheckpoint=0", Ok(2));
    check("AllAlpha=false", Ok(1));
    check("Foo=true", Err("unrecognized feature gate: Foo"));
    check("Foo", Err("missing bool value for Foo"));
    check(
        "LeaseCheckpoint=x",
        Err(r#"invalid value of LeaseCheckpoint=x, err: strconv.ParseBool: parsing "x": invalid syntax"#),
    );
}

#[test]
fn only_a_change_without_effect_is_told() {
    let check = |text: &str, expected: &[&str]| assert_eq!(inert(&parse(text).unwrap()), expected);
    check("", &[]);
    check(
        "InitialCorruptCheck=true,FastLeaseKeepAlive=true,AllBeta=true",
        &[],
    );
    check("LeaseCheckpoint=true", &[]);
    let set = parse("AllBeta=false,FastLeaseKeepAlive=true,CompactHashCheck=true").unwrap();
    assert_eq!(inert(&set), ["TxnModeWriteWithSharedBuffer"]);
    assert!(is_on(&set, "CompactHashCheck") && !is_on(&set, "InitialCorruptCheck"));
}

#[test]
fn metrics_tell_every_gate_and_group() {
    let told = told(&parse("AllAlpha=true,PriorityRequest=false").unwrap());
    assert_eq!(told.len(), GATES.len() + 2);
    let is_on = |name: &str, stage: &str| {
        let gate = told.iter().find(|gate| (gate.name, gate.stage) == (name, stage));
        gate.expect("it is told").on
    };
    assert!(is_on("AllAlpha", "ALPHA") && !is_on("AllBeta", "BETA"));
    assert!(is_on("CompactHashCheck", "ALPHA") && !is_on("PriorityRequest", "ALPHA"));
    assert!(is_on("FastLeaseKeepAlive", "BETA"));
}

#[test]
fn persistence_needs_checkpoints() {
    let verify = |text: &str| verify(&parse(text).unwrap());
    assert!(verify("LeaseCheckpointPersist=true").is_err());
    assert!(verify("LeaseCheckpointPersist=true,LeaseCheckpoint=true").is_ok());
}
