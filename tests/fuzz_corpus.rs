//! The committed inputs of the fuzz targets (`tools/fuzz`), each through its target: no panic, and neither much time nor much memory.

#[path = "../tools/fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

/// One test, so that what one target allocates is not counted for another.
#[test]
fn every_committed_input_gives_an_answer_or_an_error() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/fuzz");
    for (name, target) in targets::TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpora.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")) {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let start = Instant::now();
            targets::check(target, &input);
            assert!(start.elapsed() < Duration::from_secs(1), "{}: {:?}", path.display(), start.elapsed());
            inputs += 1;
        }
        assert!(inputs >= 5, "{name} has {inputs} inputs");
    }
}
