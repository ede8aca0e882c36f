//! Feature gates: `--feature-gates Name=true,Name=false`.
//!
//! The names and defaults are etcd's. The checks for corruption, the checkpoints of leases (always persistent) and the
//! local address of members are built. The others choose between ways of etcd's inner life that have no counterpart here: they are accepted with a
//! warning.

use super::value;
use crate::base::FeatureGate;

/// Name and default of each gate.
const GATES: &[(&str, bool)] = &[
    ("CompactHashCheck", false),
    ("FastLeaseKeepAlive", true),
    ("InitialCorruptCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("PriorityRequest", false),
    ("SetMemberLocalAddr", false),
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
];

/// Sets every gate whose default is off, or on.
const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// The gates that a list sets, in order, with etcd's words for what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<(String, bool)>, String> {
    let mut set = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let Some((name, wanted)) = item.split_once('=') else {
            return Err(format!("missing bool value for {}", item.trim()));
        };
        let (name, wanted) = (name.trim(), wanted.trim());
        let Some(on) = value::boolean(wanted) else {
            return Err(format!(
                "invalid value of {name}={wanted}, err: strconv.ParseBool: parsing {wanted:?}: invalid syntax"
            ));
        };
        set.push((name.to_owned(), on));
    }
    let known = |name: &str| name == ALL_ALPHA || name == ALL_BETA || GATES.iter().any(|gate| gate.0 == name);
    match set.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) => Err(format!("unrecognized feature gate: {name}")),
        None => Ok(set),
    }
}

/// Which gates are on after applying a list to the defaults.
fn effective(set: &[(String, bool)]) -> Vec<(&'static str, bool, bool)> {
    let state = |&(name, default): &(&'static str, bool)| {
        let group = if default { ALL_BETA } else { ALL_ALPHA };
        let named = set.iter().rev().find(|(gate, _)| gate == name);
        let grouped = set.iter().rev().find(|(gate, _)| gate == group);
        let on = named.or(grouped).map_or(default, |(_, on)| *on);
        (name, default, on)
    };
    GATES.iter().map(state).collect()
}

/// etcd's rule between gates.
pub fn verify(set: &[(String, bool)]) -> Result<(), String> {
    if is_on(set, "LeaseCheckpointPersist") && !is_on(set, "LeaseCheckpoint") {
        let text =
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
        return Err(text.to_owned());
    }
    Ok(())
}

/// Whether a gate is on.
pub fn is_on(set: &[(String, bool)], name: &str) -> bool {
    effective(set).iter().any(|gate| gate.0 == name && gate.2)
}

/// All gates, as metrics tell them. Whatever is on by default is etcd's beta, the others its alpha.
pub fn told(set: &[(String, bool)]) -> Vec<FeatureGate> {
    let gate = |(name, default, on): (&'static str, bool, bool)| FeatureGate {
        name,
        stage: if default { "BETA" } else { "ALPHA" },
        on,
    };
    let group = |(name, stage)| FeatureGate {
        name,
        stage,
        on: set.iter().rev().any(|(set, on)| set == name && *on),
    };
    let groups = [(ALL_ALPHA, "ALPHA"), (ALL_BETA, "BETA")].map(group);
    groups
        .into_iter()
        .chain(effective(set).into_iter().map(gate))
        .collect()
}

/// The gates that are set, to no effect.
pub fn inert(set: &[(String, bool)]) -> Vec<&'static str> {
    let built = [
        "InitialCorruptCheck",
        "CompactHashCheck",
        "LeaseCheckpoint",
        "LeaseCheckpointPersist",
        "SetMemberLocalAddr",
    ];
    let changed = effective(set).into_iter().filter(|gate| gate.1 != gate.2);
    changed
        .map(|(name, ..)| name)
        .filter(|name| !built.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
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
}
