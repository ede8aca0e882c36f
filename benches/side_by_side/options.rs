//! What to measure: every row unless told otherwise.

use std::str::FromStr;
use std::time::Duration;

use crate::beside::Beside;
use crate::load::Operation;

const USAGE: &str = "\
cargo bench --bench side_by_side -- [options]
  --quick              1 second per row, 64 clients
  --seconds N          seconds per row (5)
  --nodes 1,3          sizes of the cluster
  --clients 1,64,1000  numbers of clients, spread over at most 16 connections
  --operations LIST    put,get,get-serializable,txn,watch
  --systems LIST       quorate,etcd
  --leases             many leases, near and far, instead of the rows
  --beside LIST        hash,sorted-list,read-txn,compaction: measure each row again while one client of
                       each kind asks without a pause, over 500,000 keys; ends with 1 if Quorate stalls";

pub struct Options {
    pub seconds: Duration,
    pub nodes: Vec<usize>,
    pub clients: Vec<usize>,
    pub operations: Vec<Operation>,
    pub systems: Vec<String>,
    pub leases: bool,
    pub beside: Vec<Beside>,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            seconds: Duration::from_secs(5),
            nodes: vec![1, 3],
            clients: vec![1, 64, 1000],
            operations: Operation::ALL.to_vec(),
            systems: vec!["quorate".into(), "etcd".into()],
            leases: false,
            beside: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
            match argument.as_str() {
                // cargo bench gives it to every benchmark.
                "--bench" => {}
                "--quick" => {
                    options.seconds = Duration::from_secs(1);
                    options.clients = vec![64];
                }
                "--leases" => options.leases = true,
                "--seconds" => options.seconds = Duration::from_secs(list(&value()?)?[0]),
                "--nodes" => options.nodes = list(&value()?)?,
                "--clients" => options.clients = list(&value()?)?,
                "--operations" => options.operations = list(&value()?)?,
                "--systems" => options.systems = list(&value()?)?,
                "--beside" => options.beside = list(&value()?)?,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(options)
    }
}

/// A comma-separated list; never empty.
fn list<T: FromStr>(text: &str) -> Result<Vec<T>, String> {
    let items = text.split(',').map(|item| item.parse::<T>());
    items
        .collect::<Result<_, _>>()
        .map_err(|_| format!("cannot read {text:?}\n{USAGE}"))
}
