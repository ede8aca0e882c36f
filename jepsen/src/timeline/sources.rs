//! What each property promises, in a sentence, and who says so.
//!
//! The sentences of the client's properties are [`Property`]'s own; those of the members' inside are
//! the simulator's properties, by the names that its violations bear. A name that is not here has
//! neither, and the page then shows what was seen alone.

use crate::property::Property;

const RAFT: &str = "Ongaro and Ousterhout, \"In Search of an Understandable Consensus Algorithm\", ";

/// Properties of members: name, promise, place in the paper.
const INSIDE: &[(&str, &str, &str)] = &[
    (
        "election-safety",
        "At most one leader can be elected in a given term.",
        "5.2 and figure 3",
    ),
    (
        "state-machine-safety",
        "If a server has applied a log entry at a given index, no other server will ever apply a different entry for that index.",
        "5.4.3 and figure 3",
    ),
    (
        "durable-vote",
        "A server votes for one candidate in a term: its term and its vote are on stable storage before it answers.",
        "5.2 and figure 2",
    ),
    (
        "monotonic",
        "Term, commit index and applied index of a running server only grow.",
        "figure 2",
    ),
    (
        "log-matching",
        "If two logs contain an entry with the same index and term, the logs are identical in all entries up to that index.",
        "5.3 and figure 3",
    ),
    (
        "leader-completeness",
        "An entry committed in a term is present in the logs of the leaders of all later terms.",
        "5.4 and figure 3",
    ),
    (
        "leader-append-only",
        "A leader never overwrites or deletes entries in its log; it only appends.",
        "5.3 and figure 3",
    ),
];

fn of_clients(name: &str) -> Option<Property> {
    Property::ALL
        .iter()
        .copied()
        .find(|property| property.name() == name)
}

/// The property in words; empty if it is not known here.
pub fn promise(name: &str) -> &'static str {
    let inside = INSIDE.iter().find(|(known, _, _)| *known == name);
    match (of_clients(name), inside) {
        (Some(property), _) => property.guarantee(),
        (None, Some((_, promise, _))) => promise,
        (None, None) => "",
    }
}

/// Where the promise is made; empty if it is not known here.
pub fn source(name: &str) -> String {
    if let Some((_, _, place)) = INSIDE.iter().find(|(known, _, _)| *known == name) {
        return format!("{RAFT}{place}");
    }
    of_clients(name).map_or(String::new(), |property| property.source().to_owned())
}
