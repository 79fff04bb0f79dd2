//! Origin and object stores as processes of their own, so that their processor time is told apart: this program again, under another
//! verb. A stub's first line says where it is; when its input ends it tells what it saw and goes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::flood::Flood;
use crate::null_s3::{NullS3, Sum};
use crate::process;
use crate::s3::S3Server;

pub const BUCKET: &str = "bench";

pub struct Stub {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What its first line says.
    pub words: Vec<String>,
}

/// One object as the store has it, or one body as the origin sent it.
pub struct Told {
    pub name: String,
    pub bytes: u64,
    /// SHA-256 or, where the stub says so, XXH3.
    pub digest: String,
}

impl Stub {
    pub fn start(verb: &str) -> Stub {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args([verb, "--force"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stub starts");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the stub says where it is");
        let words = line.split_whitespace().map(str::to_owned).collect();
        Stub { child, input, output, words }
    }

    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.child.id())
    }

    /// What it saw, and its other remarks.
    pub fn finish(mut self) -> (Vec<Told>, Vec<String>) {
        drop(self.input.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("the stub tells what it saw");
        let (mut told, mut remarks) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["object", digest, bytes, name] => told.push(Told {
                    name: (*name).to_owned(),
                    bytes: bytes.parse().unwrap_or(0),
                    digest: (*digest).to_owned(),
                }),
                _ => remarks.push(line.to_owned()),
            }
        }
        (told, remarks)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

pub fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn tell(digest: &[u8], bytes: u64, name: &str) {
    println!("object {} {bytes} {name}", hex(digest));
}

fn until_input_ends() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// One of the verbs below, to its end. False: no such verb.
pub fn serve(verb: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match verb {
        "stub-origin" | "stub-origin-digesting" => {
            let origin = runtime.block_on(Flood::start(verb == "stub-origin-digesting"));
            println!("{}", origin.addr());
            until_input_ends();
            origin.told().iter().for_each(|(name, bytes, sha256)| tell(sha256, *bytes, name));
        }
        "stub-null" | "stub-null-sha256" => {
            let sum = if verb == "stub-null" { Sum::Xxh3 } else { Sum::Sha256 };
            let store = runtime.block_on(NullS3::start(sum));
            println!("{}", store.endpoint());
            until_input_ends();
            store.objects().iter().for_each(|(key, object)| tell(&object.digest, object.bytes, key));
            store.requests().iter().for_each(|(what, count)| println!("{what}: {count}"));
            println!("uploads left open: {}", store.open_uploads());
        }
        "stub-s3s-fs" => {
            let store = runtime.block_on(S3Server::start(&[BUCKET]));
            println!("{}", store.endpoint());
            until_input_ends();
            for key in store.keys(BUCKET) {
                let bytes = store.object(BUCKET, &key).unwrap_or_default();
                tell(&Sha256::digest(&bytes), bytes.len() as u64, &key);
            }
            println!("uploads left open: {}", store.open_uploads());
        }
        _ => return false,
    }
    true
}
