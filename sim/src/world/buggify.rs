//! What the product's sites of odd behaviour do in a run: see [`quorate::runtime::buggify`].
//!
//! ```text
//!   plan: sites that are on (each with p = 0.25) ─► a stream of numbers per site ─► fires with the site's own p
//! ```
//!
//! A stream for each site, so that a run stays much the same when one of them is switched off. When all is healed nothing
//! fires any more: the cluster has to settle in bounded time.

use std::cell::RefCell;
use std::collections::BTreeMap;

use quorate::runtime::buggify::{self, Site};

use crate::seed::{Dice, Seed};

/// The share of the sites that are on in a run which has any, and of the runs that have none.
const SITE_ON: f64 = 0.25;
const ALL_OFF: f64 = 0.1;

thread_local! {
    /// One world lives in a thread at a time.
    static SITES: RefCell<Vec<Switch>> = const { RefCell::new(Vec::new()) };
}

/// One site in this run.
#[derive(Default)]
struct Switch {
    /// `None`: off.
    dice: Option<Dice>,
    fired: u64,
}

/// Names of the sites that are on in the run of a seed.
pub fn draw(seed: Seed) -> Vec<String> {
    let mut dice = seed.dice("buggify");
    if dice.chance(ALL_OFF) {
        return Vec::new();
    }
    // A stream of its own for each: a new site changes nothing for the others.
    let is_on = |site: &&Site| seed.dice(&format!("buggify {}", site.name())).chance(SITE_ON);
    let on = Site::ALL.iter().filter(is_on);
    on.map(|site| site.name().to_owned()).collect()
}

/// Whether there is such a site.
pub fn is_known(name: &str) -> bool {
    Site::ALL.iter().any(|site| site.name() == name)
}

/// Switches on the sites of these names, and all others off.
pub fn begin(seed: Seed, on: &[String]) {
    let switch = |site: &Site| {
        let dice = || seed.dice(&format!("buggify {} fires", site.name()));
        Switch {
            dice: on.iter().any(|name| name == site.name()).then(dice),
            fired: 0,
        }
    };
    SITES.set(Site::ALL.iter().map(switch).collect());
    buggify::install(decide);
}

/// From now on nothing fires.
pub fn calm() {
    SITES.with_borrow_mut(|sites| sites.iter_mut().for_each(|site| site.dice = None));
}

/// What the sites are counted as.
pub fn names() -> impl Iterator<Item = String> {
    Site::ALL.iter().map(|site| format!("buggify/{}", site.name()))
}

/// How often each site fired.
pub fn counters() -> BTreeMap<String, u64> {
    SITES.with_borrow(|sites| {
        let fired = sites.iter().map(|site| site.fired);
        names().zip(fired).collect()
    })
}

fn decide(site: Site) -> Option<u64> {
    SITES.with_borrow_mut(|sites| {
        let switch = sites.get_mut(site as usize)?;
        let dice = switch.dice.as_mut()?;
        if dice.below(100) >= site.percent() {
            return None;
        }
        switch.fired += 1;
        Some(dice.u64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_sites_is_on_and_each_somewhere() {
        let seeds = 200;
        let drawn: Vec<Vec<String>> = (0..seeds).map(|seed| draw(Seed(seed))).collect();
        assert_eq!(drawn, (0..seeds).map(|seed| draw(Seed(seed))).collect::<Vec<_>>());
        assert!(drawn.iter().any(Vec::is_empty));
        let on: usize = drawn.iter().map(Vec::len).sum();
        let share = on as f64 / (seeds as usize * Site::ALL.len()) as f64;
        assert!((0.2..0.25).contains(&share), "{share}");
        for site in Site::ALL {
            assert!(drawn.iter().flatten().any(|name| name == site.name()), "{site:?}");
        }
    }

    #[test]
    fn sites_fire_as_often_as_they_say_until_all_is_calm() {
        let on = [Site::ApplyOne, Site::StepDown].map(|site| site.name().to_owned());
        begin(Seed(1), &on);
        let fired = |site| (0..1000).filter(|_| decide(site).is_some()).count();
        assert!((150..350).contains(&fired(Site::ApplyOne)));
        assert!((1..30).contains(&fired(Site::StepDown)));
        assert_eq!(fired(Site::LogRolledEarly), 0);
        let counted = counters();
        assert_eq!(counted.len(), Site::ALL.len());
        assert!(counted["buggify/apply/one"] > 100 && counted["buggify/log/rolled early"] == 0);
        calm();
        assert_eq!(fired(Site::ApplyOne), 0);
    }
}
