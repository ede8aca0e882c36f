use std::collections::BTreeSet;

use super::*;

#[test]
fn every_site_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Site::ALL.iter().map(|site| site.name()).collect();
    assert_eq!(names.len(), Site::ALL.len());
    assert!(Site::ALL.iter().all(|site| (1..=100).contains(&site.percent())));
}

#[test]
fn without_a_simulator_nothing_fires() {
    assert!(Site::ALL.iter().all(|&site| !buggify(site)));
    assert_eq!(limit(Site::ApplyOne, 64, 1), 64);
}
