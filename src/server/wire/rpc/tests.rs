use super::*;

#[test]
fn the_readme_says_how_far_each_method_is_served() {
    let readme = include_str!("../../../../README.md");
    for (service, method, _) in Rpc::ALL.iter().map(|rpc| rpc.describe()) {
        let short = service.strip_prefix("etcdserverpb.").unwrap_or(service);
        let short = ["v3lockpb.", "v3electionpb."]
            .iter()
            .fold(short, |name, package| name.strip_prefix(package).unwrap_or(name));
        let said = readme
            .lines()
            .any(|line| line.starts_with(&format!("| {short}: ")) && line.contains(&format!("`{method}`")));
        assert!(said, "{service}/{method}");
    }
}
