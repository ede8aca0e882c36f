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
mod tests;
