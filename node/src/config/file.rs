//! The configuration file: TOML with the line of every key, so that whatever is wrong is refused with its place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::layer::{KEYS, Layer};

/// The longest configuration file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The table whose tables belong to the workers.
const WORKERS: &str = "workers";
/// Texts that differ in more places than this are not suggested.
const MAX_TYPOS: usize = 2;

/// What a file says, and where.
#[derive(Debug, Default)]
pub(super) struct FileLayer {
    pub(super) layer: Layer,
    /// The line of each key, from 1.
    lines: BTreeMap<String, usize>,
}

impl FileLayer {
    /// Reads and checks the file.
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |error| ConfigError::Read {
            path: path.to_owned(),
            error,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(read)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigError::TooLarge {
                path: path.to_owned(),
                limit_bytes: MAX_FILE_BYTES,
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            read(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                error.utf8_error(),
            ))
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks a text; `path` is its name in errors.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let source = Source { text, path };
        let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        let mut lines = BTreeMap::new();
        source.check_keys(table.get_ref(), &mut lines)?;
        let deserializer = toml::Deserializer::parse(text).map_err(|error| source.syntax(&error))?;
        let layer = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let key = error.path().to_string();
            source.refuse(error.inner().span(), key, error.inner().message())
        })?;
        Ok(Self { layer, lines })
    }

    /// The line on which `key` stands, from 1.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }
}

struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    fn check_keys(&self, root: &DeTable<'_>, lines: &mut BTreeMap<String, usize>) -> Result<(), ConfigError> {
        for (name, value) in root {
            if name.get_ref() == WORKERS {
                self.note_workers(value, lines);
            } else if let DeValue::Table(table) = value.get_ref()
                && is_table(name.get_ref())
            {
                for key in table.keys() {
                    let path = format!("{}.{}", name.get_ref(), key.get_ref());
                    self.check_key(key, &path)?;
                    lines.insert(path, self.position(key.span().start).0);
                }
            } else if !is_table(name.get_ref()) {
                return Err(self.unknown(name, name.get_ref()));
            }
        }
        Ok(())
    }

    fn note_workers(&self, workers: &Spanned<DeValue<'_>>, lines: &mut BTreeMap<String, usize>) {
        for module in workers
            .get_ref()
            .as_table()
            .into_iter()
            .flat_map(|table| table.keys())
        {
            let line = self.position(module.span().start).0;
            lines.insert(format!("{WORKERS}.{}", module.get_ref()), line);
        }
    }

    fn check_key<T>(&self, key: &Spanned<T>, path: &str) -> Result<(), ConfigError> {
        if KEYS.iter().any(|known| known.path == path) {
            return Ok(());
        }
        Err(self.unknown(key, path))
    }

    fn unknown<T>(&self, key: &Spanned<T>, path: &str) -> ConfigError {
        let hint = match nearest(path) {
            Some(known) => format!("; did you mean {known}?"),
            None => String::new(),
        };
        self.refuse(Some(key.span()), path.to_owned(), &format!("unknown key{hint}"))
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        self.refuse(error.span(), String::new(), error.message())
    }

    fn refuse(&self, span: Option<Range<usize>>, key: String, problem: &str) -> ConfigError {
        let (line, column) = self.position(span.map_or(0, |span| span.start));
        ConfigError::File {
            path: self.path.to_owned(),
            line,
            column,
            key,
            problem: problem.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }

    /// Line and column of a byte, both from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[start..].chars().count() + 1,
        )
    }
}

fn is_table(name: &str) -> bool {
    KEYS.iter()
        .any(|key| key.path.split_once('.').is_some_and(|(table, _)| table == name))
}

/// The known key that was probably meant: the same name in another table, or one that differs by a slip or two.
fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &'static str| path.split_once('.').map_or(path, |(_, last)| last);
    let name = path.rsplit('.').next().unwrap_or(path);
    let name = name.replace('-', "_");
    KEYS.iter()
        .map(|key| {
            let typos = strsim::damerau_levenshtein(&name, last(key.path));
            let moved = usize::from(!path.starts_with(&key.path[..key.path.len() - last(key.path).len()]));
            (typos, moved, key.path)
        })
        .filter(|(typos, _, path)| *typos <= MAX_TYPOS.min(last(path).len() / 2))
        .min()
        .map(|(_, _, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileLayer, String> {
        FileLayer::parse(text, Path::new("node.toml")).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(parse(text).unwrap_err(), expected);
    }

    #[test]
    fn every_key_of_the_file_is_known() {
        let file = parse(
            r#"
            [mesh]
            listen = "[::]:9"
            peers = ["b@c:7"]
            cost = 3
            detection = "1s"
            labels = { site = "berlin" }
            [pool]
            max_workers = 2
            queue = 0
            max_bytes_payload = "1KiB"
            max_file_payload = "1MiB"
            payload_idle = "2s"
            drain_grace = "3s"
            [work]
            quota = "16MiB"
            reserve = "0B"
            spool_limit = "64KiB"
            lost_after = "4s"
            batch_from = 0
            keep_succeeded_for = "5s"
            keep_succeeded_count = 6
            keep_succeeded_bytes = "7B"
            keep_failed_for = "8s"
            keep_failed_count = 9
            keep_failed_bytes = "10B"
            [log]
            level = "debug"
            format = "json"
            [workers.http]
            allow = ["example.org"]
            "#,
        )
        .unwrap();
        assert!(!format!("{:?}", file.layer).contains("None"), "{:?}", file.layer);
        for key in KEYS {
            assert!(file.line(key.path).is_some(), "{}", key.path);
        }
        assert_eq!(file.line("mesh.cost"), Some(5));
        assert_eq!(file.line("workers.http"), Some(30));
    }

    #[test]
    fn every_key_is_in_the_sample_and_in_the_guide_for_operators() {
        let sample = include_str!("../../../deploy/node.toml");
        let guide = include_str!("../../../docs/OPERATING.md");
        parse(sample).unwrap();
        let all: String = sample
            .lines()
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        for key in KEYS {
            let (table, name) = key.path.split_once('.').unwrap();
            let (_, after) = all.split_once(&format!("\n[{table}]\n")).unwrap();
            let keys = after.split("\n[").next().unwrap();
            assert!(
                keys.contains(&format!("\n{name} = ")),
                "the sample lacks {}",
                key.path
            );
            assert!(
                guide.contains(&format!("`{}`", key.path)),
                "the guide lacks {}",
                key.path
            );
        }
    }

    #[test]
    fn an_empty_file_says_nothing() {
        let file = parse("# nothing\n").unwrap();
        assert!(file.layer.mesh.listen.is_none() && file.lines.is_empty());
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place_and_the_nearest_key() {
        refused(
            "[mesh]\ncost = 1\n  listne = \"x\"\n",
            "node.toml:3:3: mesh.listne: unknown key; did you mean mesh.listen?",
        );
        refused(
            "queue = 3\n",
            "node.toml:1:1: queue: unknown key; did you mean pool.queue?",
        );
        refused(
            "[pool]\nmax-workers = 3\n",
            "node.toml:2:1: pool.max-workers: unknown key; did you mean pool.max_workers?",
        );
        refused(
            "[pool]\nspool_limits = \"1GiB\"\n",
            "node.toml:2:1: pool.spool_limits: unknown key; did you mean work.spool_limit?",
        );
        refused("[mesh]\nzebra = 3\n", "node.toml:2:1: mesh.zebra: unknown key");
        refused("[zebra]\na = 3\n", "node.toml:1:2: zebra: unknown key");
        refused(
            "mesh.coost = 3\n",
            "node.toml:1:6: mesh.coost: unknown key; did you mean mesh.cost?",
        );
    }

    #[test]
    fn bad_values_are_refused_with_their_place_and_key() {
        refused(
            "[mesh]\ncost = 0\n",
            "node.toml:2:8: mesh.cost: expected a cost from 1 to 65535, found 0",
        );
        refused(
            "[mesh]\npeers = [\"a:1\", \"b:x\"]\n",
            "node.toml:2:9: mesh.peers: expected a port from 1 to 65535, found \"x\"",
        );
        refused(
            "[pool]\nqueue = \"many\"\n",
            "node.toml:2:9: pool.queue: invalid type: string \"many\", expected i64",
        );
        refused(
            "[mesh]\ndetection = \"é5\"\nlisten = true\n",
            "node.toml:2:13: mesh.detection: expected a duration with a unit, such as 500ms, 5s, 2m or 24h, found \"é5\"",
        );
        refused(
            "[work]\n\nquota = \"15MiB\"\n",
            "node.toml:3:9: work.quota: expected a size of at least 16MiB, such as 1GiB, found \"15MiB\"",
        );
        refused(
            "[work]\nkeep_failed_count = -1\n",
            "node.toml:2:21: work.keep_failed_count: expected a number from 0 to 10000000, found -1",
        );
        refused(
            "[work]\nkeep_succeeded_for = \"7d\"\n",
            "node.toml:2:22: work.keep_succeeded_for: expected a duration with a unit, such as 500ms, 5s, 2m or 24h, found \
             \"7d\"",
        );
        refused(
            "[mesh]\nlisten = true\n",
            "node.toml:2:10: mesh.listen: invalid value: boolean `true`, expected an address such as \"0.0.0.0:8888\", or \
             false to listen nowhere",
        );
    }

    #[test]
    fn a_table_that_is_none_is_refused() {
        assert!(
            parse("mesh = 3\n")
                .unwrap_err()
                .starts_with("node.toml:1:8: mesh: invalid type")
        );
        assert!(
            parse("workers = 3\n")
                .unwrap_err()
                .starts_with("node.toml:1:11: workers: invalid type")
        );
        assert!(
            parse("[workers]\nhttp = 3\n")
                .unwrap_err()
                .starts_with("node.toml:2:8: workers.http: invalid type")
        );
    }

    #[test]
    fn wrong_syntax_is_refused_on_one_line_with_its_place() {
        let text = parse("[mesh]\ncost = \n").unwrap_err();
        assert!(text.starts_with("node.toml:2:") && !text.contains('\n'), "{text}");
        assert!(
            parse("[mesh]\ncost = 1\ncost = 2\n")
                .unwrap_err()
                .starts_with("node.toml:3:1: ")
        );
    }

    #[test]
    fn a_file_is_read_up_to_the_limit_and_not_past_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let limit = usize::try_from(MAX_FILE_BYTES).unwrap();
        std::fs::write(&path, "#".repeat(limit)).unwrap();
        assert!(FileLayer::load(&path).is_ok());
        std::fs::write(&path, "#".repeat(limit + 1)).unwrap();
        assert!(matches!(
            FileLayer::load(&path),
            Err(ConfigError::TooLarge { .. })
        ));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(FileLayer::load(&path), Err(ConfigError::Read { .. })));
    }
}
