//! Who may administer and who may publish.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::catalogue::ProblemKind;
use super::problem::Problem;
use crate::model::{Invalid, TopicSet};

const MIN_TOKEN_BYTES: usize = 16;

/// The tokens an API accepts. Without any it is open, which is for loopback only
/// (see [`super::Server::bind`]). Cheap to clone; holds digests, never the tokens.
#[derive(Clone, Default)]
pub struct Access {
    admin: Vec<[u8; 32]>,
    publish: Vec<[u8; 32]>,
}

/// Who a request comes from, as far as tokens tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// Brought an admin token, or no tokens are configured: may do everything.
    Admin,
    /// Brought a publish token: may publish.
    Publisher,
    /// Brought something else, perhaps the secret of a subscription.
    Other,
    /// Brought nothing.
    Nobody,
}

impl Access {
    /// Accepts everyone.
    pub fn open() -> Self {
        Self::default()
    }

    /// Accepts these tokens; each has at least 16 visible ASCII characters. With no publish tokens
    /// publishing takes an admin token.
    pub fn new(admin: &[String], publish: &[String]) -> Result<Self, Invalid> {
        Ok(Self { admin: digests("admin", admin)?, publish: digests("publish", publish)? })
    }

    /// True when no tokens are configured.
    pub fn is_open(&self) -> bool {
        self.admin.is_empty() && self.publish.is_empty()
    }

    /// Who a request comes from. Takes the same time whichever token is right.
    pub fn principal(&self, headers: &HeaderMap) -> Principal {
        if self.is_open() {
            return Principal::Admin;
        }
        let Some(token) = bearer(headers) else { return Principal::Nobody };
        let digest = digest(token);
        match (is_one_of(&digest, &self.admin), is_one_of(&digest, &self.publish)) {
            (true, _) => Principal::Admin,
            (false, true) => Principal::Publisher,
            (false, false) => Principal::Other,
        }
    }

    /// True for [`Principal::Admin`].
    pub(crate) fn is_admin(&self, headers: &HeaderMap) -> bool {
        self.principal(headers) == Principal::Admin
    }

    /// Refuses all but admins.
    pub(crate) fn require_admin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.principal(headers) {
            Principal::Admin => Ok(()),
            Principal::Publisher => Err(Problem::new(
                ProblemKind::Forbidden,
                "a publish token may publish only: use an admin token",
            )),
            principal => Err(unauthorized(principal, "an admin token")),
        }
    }

    /// Refuses all but those who may read these topics without a subscription, which admins may;
    /// `None` for topics that cannot be read as such.
    pub(crate) fn require_read(
        &self,
        headers: &HeaderMap,
        _topics: Option<&TopicSet>,
    ) -> Result<(), Problem> {
        self.require_admin(headers)
    }

    /// Refuses all but admins and publishers.
    pub(crate) fn require_publish(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.principal(headers) {
            Principal::Admin | Principal::Publisher => Ok(()),
            principal => Err(unauthorized(principal, "a publish or admin token")),
        }
    }
}

/// The token of `Authorization: Bearer <token>`, if there is exactly one such header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthorized(principal: Principal, needed: &str) -> Problem {
    let found = if principal == Principal::Nobody { "is missing" } else { "is not known" };
    let detail = format!("the token {found}: send {needed} as Authorization: Bearer <token>");
    Problem::new(ProblemKind::Unauthorized, detail)
}

fn digests(what: &str, tokens: &[String]) -> Result<Vec<[u8; 32]>, Invalid> {
    let check = |token: &String| {
        if token.len() >= MIN_TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(digest(token));
        }
        Err(Invalid::new(format!(
            "an {what} token has {} bytes: use {MIN_TOKEN_BYTES} or more visible ASCII characters",
            token.len()
        )))
    };
    tokens.iter().map(check).collect()
}

/// Equal lengths, so that comparing tells nothing about the length of a token either.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn is_one_of(digest: &[u8; 32], known: &[[u8; 32]]) -> bool {
    let any = |found: Choice, one: &[u8; 32]| found | digest.ct_eq(one);
    known.iter().fold(Choice::from(0), any).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "admin-token-0123456789";
    const PUBLISH: &str = "publish-token-0123456789";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn principals_are_told_apart() {
        let access = Access::new(&[ADMIN.into()], &[PUBLISH.into()]).unwrap();
        let of = |values: &[&str]| access.principal(&headers(values));
        assert_eq!(of(&[&format!("Bearer {ADMIN}")]), Principal::Admin);
        assert_eq!(of(&[&format!("bearer  {PUBLISH}")]), Principal::Publisher);
        assert_eq!(of(&["Bearer something-else"]), Principal::Other);
        for none in [&[][..], &["Bearer "], &["Basic abc"], &[ADMIN]] {
            assert_eq!(of(none), Principal::Nobody, "{none:?}");
        }
        let admin = format!("Bearer {ADMIN}");
        assert_eq!(of(&[&admin, &admin]), Principal::Nobody);
        assert_eq!(Access::open().principal(&HeaderMap::new()), Principal::Admin);
    }

    #[test]
    fn each_may_do_its_own() {
        let access = Access::new(&[ADMIN.into()], &[PUBLISH.into()]).unwrap();
        let status = |result: Result<(), Problem>| result.map_err(|p| p.kind().status().as_u16());
        let publisher = headers(&[&format!("Bearer {PUBLISH}")]);
        assert_eq!(status(access.require_publish(&publisher)), Ok(()));
        assert_eq!(status(access.require_admin(&publisher)), Err(403));
        let stranger = headers(&["Bearer x"]);
        assert_eq!(status(access.require_publish(&stranger)), Err(401));
        assert_eq!(status(access.require_admin(&stranger)), Err(401));
        assert!(!access.is_admin(&publisher) && !access.is_admin(&stranger));
    }

    #[test]
    fn weak_tokens_are_refused() {
        assert!(Access::new(&["short".into()], &[]).is_err());
        assert!(Access::new(&[], &["with a space 0123456789".into()]).is_err());
    }
}
