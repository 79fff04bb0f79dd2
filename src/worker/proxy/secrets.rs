//! A proxy's user name and password, from files.
//!
//! Owns: reading them. Must not know: what they open.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What both protocols can carry.
const SECRET_BYTES_MAX: usize = 255;
/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Without `Debug`, so that nobody prints it.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
}

impl Credentials {
    /// The error is `key: why`, with the file's path and nothing of what it holds.
    pub(super) fn read(username_file: &Path, password_file: &Path) -> Result<Self, String> {
        let username = secret(username_file).map_err(|why| format!("username_file: {why}"))?;
        if username.contains(':') {
            return Err(format!("username_file: {}: holds a colon, which cannot be sent", username_file.display()));
        }
        let password = secret(password_file).map_err(|why| format!("password_file: {why}"))?;
        Ok(Self { username, password })
    }
}

/// The one line of the file, trimmed.
fn secret(file: &Path) -> Result<String, String> {
    let file = place(file, std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from).as_deref());
    let wrong = |why: &str| Err(format!("{}: {why}", file.display()));
    let mut text = String::new();
    // Somebody may name a device or a disk image.
    let read = std::fs::File::open(&file).and_then(|open| open.take(4_096).read_to_string(&mut text));
    if let Err(error) = read {
        return wrong(&error.to_string());
    }
    match text.trim() {
        "" => wrong("is empty"),
        line if line.contains(char::is_control) => wrong("holds more than one line of text"),
        line if line.len() > SECRET_BYTES_MAX => wrong("holds more than 255 bytes"),
        line => Ok(line.to_owned()),
    }
}

/// A bare name is a credential of the service, where it has any; everything else is a path.
fn place(file: &Path, credentials: Option<&Path>) -> PathBuf {
    match credentials {
        Some(folder) if file.components().count() == 1 && file.is_relative() => folder.join(file),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_an_error_never_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let user = file("user", " me \n");
        let read = Credentials::read(&user, &file("password", "hush hush\r\n")).ok().unwrap();
        assert_eq!((read.username.as_str(), read.password.as_str()), ("me", "hush hush"));
        for (name, text) in [("empty", "\n"), ("two", "hush\nhush"), ("long", &"hush".repeat(100))] {
            let why = Credentials::read(&user, &file(name, text)).err().unwrap();
            assert!(why.starts_with("password_file: ") && why.contains(name) && !why.contains("hush"), "{why}");
        }
        let why = Credentials::read(&file("colon", "hush:hush"), &user).err().unwrap();
        assert!(why.starts_with("username_file: ") && !why.contains("hush"), "{why}");
        assert!(Credentials::read(&dir.path().join("gone"), &user).err().unwrap().contains("gone"));
    }

    #[test]
    fn a_bare_name_is_a_credential_of_the_service() {
        let folder = Some(Path::new("/run/credentials/fetchbox"));
        assert_eq!(place(Path::new("eu-password"), folder), Path::new("/run/credentials/fetchbox/eu-password"));
        assert_eq!(place(Path::new("eu-password"), None), Path::new("eu-password"));
        assert_eq!(place(Path::new("./eu"), folder), Path::new("./eu"));
        assert_eq!(place(Path::new("/etc/eu"), folder), Path::new("/etc/eu"));
    }
}
