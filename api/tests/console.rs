//! The console's own tests, which run under Node.

use std::path::Path;
use std::process::Command;

#[test]
fn the_consoles_tests_pass_under_node() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console");
    let mut scripts: Vec<_> = std::fs::read_dir(tests)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let run = match Command::new("node").arg("--test").args(&scripts).output() {
        Ok(run) => run,
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no Node is installed, so the console's scripts are not tested");
            return;
        }
        Err(problem) => panic!("node: {problem}"),
    };
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
}
