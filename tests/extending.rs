//! The page that says which file and line to touch is true of the code.

use std::path::Path;

const PAGE: &str = include_str!("../crates/tiny-t5/docs/EXTENDING.md");

/// The texts in backticks of a line.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).filter(|text| !text.is_empty()).collect()
}

#[test]
fn every_place_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut places = 0;
    for line in PAGE.lines().filter(|line| line.starts_with("- ")) {
        // What the places are for stands behind the last of them.
        let place = line.split_once("`: ").map_or(line, |(place, _)| place);
        let [file, items @ ..] = &quoted(place)[..] else { panic!("no file: {line}") };
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(!items.is_empty(), "no item: {line}");
        for item in items {
            assert!(text.contains(item), "{file} has no `{item}`");
            places += 1;
        }
    }
    assert!(places >= 30, "{places} places");
}

/// A subject of the page for each thing that can be added.
#[test]
fn every_subject_has_places() {
    let sections: Vec<_> = PAGE.split("\n# ").skip(1).collect();
    for subject in ["An instruction set", "A format of weights", "A variant of T5", "A strategy", "An option"] {
        let section = sections.iter().find(|section| section.starts_with(subject));
        assert!(section.is_some_and(|section| section.contains("\n- `")), "{subject}");
    }
}
