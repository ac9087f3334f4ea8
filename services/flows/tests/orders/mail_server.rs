//! A mail server for tests: enough of SMTP (RFC 5321) on a socket of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// An e-mail as it was taken.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    pub(crate) id: String,
    pub(crate) to: String,
    pub(crate) text: String,
}

/// Takes every e-mail, but refuses those to `gone@...` for good (550) and the first one to each
/// `busy...@...` for now (451). Dropping it closes everything.
pub(crate) struct MailServer {
    url: String,
    taken: Arc<Mutex<Vec<Mail>>>,
    _serving: JoinSet<()>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let mails = taken.clone();
        serving.spawn(async move {
            let (mut connections, busy) = (JoinSet::new(), Arc::new(Mutex::new(HashSet::new())));
            while let Ok((stream, _)) = listener.accept().await {
                let session = Session { mails: mails.clone(), busy: busy.clone() };
                // A client that breaks off is none of the server's business.
                connections.spawn(async move { session.serve(stream).await.unwrap_or_default() });
            }
        });
        Self { url, taken, _serving: serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.taken.lock().unwrap().clone()
    }
}

struct Session {
    mails: Arc<Mutex<Vec<Mail>>>,
    busy: Arc<Mutex<HashSet<String>>>,
}

impl Session {
    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 test ESMTP\r\n").await?;
        let (mut line, mut to) = (String::new(), String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let answer = match verb.as_str() {
                "EHLO" => "250-test\r\n250 8BITMIME\r\n",
                "RCPT" => {
                    to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    self.judge(&to)
                }
                "DATA" => {
                    stream.write_all(b"354 go on\r\n").await?;
                    let mail = read_mail(&mut stream, &to).await?;
                    self.mails.lock().unwrap().push(mail);
                    "250 taken\r\n"
                }
                "MAIL" | "RSET" | "NOOP" => "250 fine\r\n",
                "QUIT" => {
                    stream.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "500 what?\r\n",
            };
            stream.write_all(answer.as_bytes()).await?;
        }
    }

    fn judge(&self, to: &str) -> &'static str {
        if to.starts_with("gone@") {
            "550 no such user\r\n"
        } else if to.starts_with("busy") && self.busy.lock().unwrap().insert(to.to_owned()) {
            "451 not now\r\n"
        } else {
            "250 fine\r\n"
        }
    }
}

async fn read_mail(stream: &mut BufReader<TcpStream>, to: &str) -> std::io::Result<Mail> {
    let (mut id, mut text, mut in_head) = (String::new(), String::new(), true);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches(['\r', '\n']);
        match line {
            "." => break,
            "" if in_head => in_head = false,
            header if in_head => {
                if let Some(value) = header.strip_prefix("Message-ID: ") {
                    id = value.trim_matches(['<', '>']).to_owned();
                }
            }
            body => text.push_str(body),
        }
    }
    // The part before the at is ours.
    let id = id.split('@').next().unwrap_or_default().to_owned();
    Ok(Mail { id, to: to.to_owned(), text })
}
