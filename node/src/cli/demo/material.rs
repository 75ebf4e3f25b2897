//! What the demo works on: the files of the directory that it is called in, and a web page of its own.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The most files that are worked on.
const MAX_FILES: usize = 2000;
/// The largest file that is worked on, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most bytes in all files.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The longest request that the web page reads, in bytes.
const MAX_REQUEST_BYTES: usize = 8192;

/// The files to work on, and what they are.
pub(super) struct Material {
    /// For a person, as in "the tracked files of /src/project".
    pub(super) name: String,
    /// Contents, none of them empty.
    pub(super) files: Vec<Bytes>,
}

impl Material {
    /// The tracked files of `directory`, else its plain files, else this program.
    pub(super) fn gather(directory: &Path) -> io::Result<Self> {
        let place = directory.display();
        let sources = [
            (format!("the tracked files of {place}"), tracked(directory)),
            (format!("the files of {place}"), plain(directory)),
            ("this program".to_owned(), vec![std::env::current_exe()?]),
        ];
        let last = sources.len() - 1;
        for (at, (name, paths)) in sources.into_iter().enumerate() {
            let limit = if at == last { u64::MAX } else { MAX_FILE_BYTES };
            let files = read(&paths, limit);
            if !files.is_empty() {
                return Ok(Self { name, files });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no file that can be read; run the demo in another directory",
        ))
    }

    /// Bytes in all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }
}

fn tracked(directory: &Path) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .output();
    let Ok(listed) = listed else {
        return Vec::new();
    };
    let names = listed
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .filter_map(|name| std::str::from_utf8(name).ok())
        .map(|name| directory.join(name))
        .collect()
}

fn plain(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Reads what is a file, not empty and within the limits; skips the rest.
fn read(paths: &[PathBuf], max_file_bytes: u64) -> Vec<Bytes> {
    let mut files = Vec::new();
    let mut total = 0;
    for path in paths {
        let fits =
            fs::symlink_metadata(path).is_ok_and(|about| about.is_file() && about.len() <= max_file_bytes);
        let Some(content) = fits.then(|| fs::read(path).ok()).flatten() else {
            continue;
        };
        if content.is_empty() {
            continue;
        }
        let full = files.len() >= MAX_FILES || total + content.len() > MAX_BYTES;
        if full && !files.is_empty() {
            break;
        }
        total += content.len();
        files.push(Bytes::from(content));
    }
    files
}

/// A web server on loopback that gives every request the same page.
pub(super) struct WebPage {
    listener: TcpListener,
}

impl WebPage {
    /// What the page says.
    pub(super) const TEXT: &str = "fetched by C, asked by A, carried by B";

    /// Listens on a port that the system chooses.
    pub(super) async fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers one request.
    pub(super) async fn answer(&self) -> io::Result<()> {
        let (mut stream, _) = self.listener.accept().await?;
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST_BYTES {
            if stream.read_buf(&mut request).await? == 0 {
                break;
            }
        }
        let text = Self::TEXT;
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_files_falls_back_to_this_program() {
        let dir = tempfile::tempdir().unwrap();
        let material = Material::gather(dir.path()).unwrap();
        assert_eq!(material.name, "this program");
        assert!(material.bytes() > 0);
    }

    #[test]
    fn plain_files_are_taken_and_empty_or_large_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "one").unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        fs::create_dir(dir.path().join("c")).unwrap();
        let large = fs::File::create(dir.path().join("d")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        let material = Material::gather(dir.path()).unwrap();
        assert_eq!(material.files, [Bytes::from("one")]);
    }

    #[tokio::test]
    async fn the_page_answers_a_request() {
        let page = WebPage::listen().await.unwrap();
        let mut client = tokio::net::TcpStream::connect(page.address().unwrap())
            .await
            .unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        page.answer().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(WebPage::TEXT),
            "{answer}"
        );
    }
}
