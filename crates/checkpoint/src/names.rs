//! Model names: a folder, or a name of the Hugging Face hub whose files lie in the local cache.
//!
//! The cache keeps `models--ORG--NAME/refs/main`, which holds a commit, and `snapshots/COMMIT/`, whose files are links
//! into `blobs/`. Nothing is downloaded. The environment is read here and nowhere else in this crate: `HF_HUB_CACHE`,
//! else `HF_HOME`/hub, else `XDG_CACHE_HOME`/huggingface/hub, else `~/.cache/huggingface/hub`.
//!
//! Source: huggingface_hub, `constants.py` and `file_download.py`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::bytes::read_text;
use crate::error::{Error, shown};

/// The checkpoint folder that `dir_or_name` means: itself if it is a folder, else the hub name's snapshot in the cache.
///
/// # Errors
/// [`Error::NotCached`] says where it looked and how to get the files; [`Error::NoFolder`] where the text can be no hub
/// name.
pub fn resolve(dir_or_name: &str) -> Result<PathBuf, Error> {
    resolve_with(dir_or_name, |key| std::env::var_os(key))
}

fn resolve_with(dir_or_name: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    let path = Path::new(dir_or_name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.exists() || !is_hub_name(dir_or_name) {
        return Err(Error::NoFolder {
            path: shown(dir_or_name),
            found: if path.exists() { "is a file" } else { "no such folder" },
        });
    }
    let missing = |found: String, cache: String| Error::NotCached { name: dir_or_name.to_owned(), found, cache };
    let Some((cache, source)) = cache_folder(&env) else {
        let found = "none of HF_HUB_CACHE, HF_HOME and HOME is set, so nothing".to_owned();
        return Err(missing(found, "(unknown)".to_owned()));
    };
    let model = format!("models--{}", dir_or_name.replace('/', "--"));
    snapshot(&cache.join(&model), &model)
        .map_err(|found| missing(found, format!("{} (from {source})", cache.display())))
}

/// The snapshot that `refs/main` names, or what is missing.
fn snapshot(folder: &Path, model: &str) -> Result<PathBuf, String> {
    if !folder.is_dir() {
        return Err(format!("no {model}"));
    }
    let reference = read_text(&folder.join("refs").join("main"), "refs/main", 256)
        .map_err(|e| format!("{model}/refs/main cannot be read ({e})"))?;
    let commit = reference.trim();
    // A commit is a name, not a path: the reference must not lead out of `snapshots`.
    if commit.is_empty() || commit.len() > 128 || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!("{model}/refs/main holds \"{}\", which is no commit,", shown(commit)));
    }
    let snapshot = folder.join("snapshots").join(commit);
    match snapshot.is_dir() {
        true => Ok(snapshot),
        false => Err(format!("{model}/refs/main names {commit}, but no {model}/snapshots/{commit}")),
    }
}

/// `NAME` or `ORGANISATION/NAME` as the hub allows them: letters, digits, `-`, `_`, `.`, no `--` and no `..`.
fn is_hub_name(name: &str) -> bool {
    let good = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !part.is_empty() && part.bytes().all(allowed) && !part.starts_with(['.', '-']) && !part.ends_with(['.', '-'])
    };
    let parts = name.split('/').count();
    parts <= 2 && name.len() <= 96 && !name.contains("--") && !name.contains("..") && name.split('/').all(good)
}

/// The cache's folder, and the variable that it comes from.
fn cache_folder(env: impl Fn(&str) -> Option<OsString>) -> Option<(PathBuf, &'static str)> {
    let set = |key| env(key).filter(|value| !value.is_empty());
    let home = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
    let expand = |value: OsString| {
        let path = PathBuf::from(value);
        match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        }
    };
    if let Some(cache) = set("HF_HUB_CACHE") {
        return Some((expand(cache), "HF_HUB_CACHE"));
    }
    if let Some(hf_home) = set("HF_HOME") {
        return Some((expand(hf_home).join("hub"), "HF_HOME"));
    }
    if let Some(cache) = set("XDG_CACHE_HOME") {
        return Some((expand(cache).join("huggingface").join("hub"), "XDG_CACHE_HOME"));
    }
    let home = home.clone()?;
    Some((home.join(".cache").join("huggingface").join("hub"), "HOME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_with(reference: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("models--google--t5-efficient-tiny");
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::create_dir_all(model.join("snapshots").join("abc123")).unwrap();
        std::fs::write(model.join("refs/main"), reference).unwrap();
        root
    }

    fn look(name: &str, root: &Path) -> Result<PathBuf, Error> {
        resolve_with(name, |key| (key == "HF_HUB_CACHE").then(|| root.as_os_str().to_owned()))
    }

    #[test]
    fn resolve_hub_name_in_cache_gives_its_snapshot() {
        let root = cache_with("abc123\n");
        let found = look("google/t5-efficient-tiny", root.path()).unwrap();
        assert_eq!(found, root.path().join("models--google--t5-efficient-tiny/snapshots/abc123"));
    }

    #[test]
    fn resolve_hub_name_not_in_cache_says_where_and_how() {
        let root = cache_with("abc123");
        let message = look("google/t5-small", root.path()).unwrap_err().to_string();
        assert!(message.contains(&root.path().display().to_string()), "{message}");
        assert!(message.contains("hf download google/t5-small"), "{message}");
    }

    #[test]
    fn resolve_reference_that_leads_out_of_the_cache_is_refused() {
        for reference in ["../../..", "/etc", "", "feed"] {
            let root = cache_with(reference);
            assert!(look("google/t5-efficient-tiny", root.path()).is_err(), "{reference}");
        }
    }

    #[test]
    fn resolve_folder_is_itself_and_a_file_is_an_error() {
        let root = cache_with("abc123");
        let dir = root.path().to_str().unwrap();
        assert_eq!(resolve(dir).unwrap(), root.path());
        let file = root.path().join("models--google--t5-efficient-tiny/refs/main");
        assert!(matches!(resolve(file.to_str().unwrap()), Err(Error::NoFolder { .. })));
    }

    #[test]
    fn cache_folder_follows_the_order_of_variables() {
        let with = |keys: &'static [(&str, &str)]| {
            let find = move |key: &str| keys.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
            cache_folder(find).map(|(path, _)| path)
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), path("/c"));
        assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "~/f")]), path("/h/f/hub"));
        assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "")]), path("/h/.cache/huggingface/hub"));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn is_hub_name_refuses_paths() {
        for name in ["a/b/c", "../x", "/x", "a//b", "x/", "", "a b", "a--b", ".hidden"] {
            assert!(!is_hub_name(name), "{name:?}");
        }
        assert!(is_hub_name("t5-small") && is_hub_name("google/t5-v1_1.base"));
    }
}
