//! The W3C trace context: `traceparent` and `tracestate`, read, checked and written as the
//! Recommendation "Trace Context" (W3C, 23 November 2021) says.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::Result;
use crate::headers::Headers;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const VERSION_0_BYTES: usize = 55;
const SAMPLED: u8 = 1;
const MOST_STATE_MEMBERS: usize = 32;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Which trace something belongs to, and which span of it is the parent.
///
/// Within a handler that runs under [`super::Tracing`] the context of its span is
/// [`TraceContext::current`]. A task that the handler spawns is outside of it, unless the work is
/// wrapped by [`TraceContext::scope`].
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::Headers;
/// use bus::middleware::TraceContext;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let caller = TraceContext::parse(text).expect("well-formed");
/// assert!(caller.is_sampled());
///
/// // By hand, where no middleware is:
/// let mut headers = Headers::new();
/// let mine = caller.child(7).expect("no id is 0");
/// mine.write_to(&mut headers)?;
/// assert_eq!(TraceContext::from_headers(&headers).map(|read| read.trace_id()), Some(caller.trace_id()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// The root of a new trace. `None` where an id is 0, which the Recommendation forbids.
    pub fn root(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        let valid = trace_id != 0 && span_id != 0;
        valid.then_some(Self { trace_id, span_id, sampled, state: None })
    }

    /// The context that the current task works in, if it has one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs `work` in this context.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The same trace with another span as the parent. `None` where `span_id` is 0.
    pub fn child(&self, span_id: u64) -> Option<Self> {
        (span_id != 0).then(|| Self { span_id, ..self.clone() })
    }

    /// Reads a `traceparent`. A version above `00` is read as far as version `00` goes, as the
    /// Recommendation demands; anything malformed is `None`.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let (text, rest) = traceparent.split_at_checked(VERSION_0_BYTES)?;
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let known = version == 0 && rest.is_empty();
        let newer = version > 0 && version < 0xff && (rest.is_empty() || rest.starts_with('-'));
        if !known && !newer {
            return None;
        }
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
        if parts.next().is_some() {
            return None;
        }
        Self::root(trace_id, span_id, flags & SAMPLED != 0)
    }

    /// The same with a `tracestate`, given as the values of its headers in order. A malformed one
    /// is left out, which the Recommendation prefers to losing the trace.
    #[must_use]
    pub fn with_state<'a>(self, values: impl IntoIterator<Item = &'a str>) -> Self {
        let members = values.into_iter().flat_map(|value| value.split(','));
        let members = members.map(|member| member.trim_matches([' ', '\t']));
        let members: Vec<_> = members.filter(|member| !member.is_empty()).collect();
        let state = valid_state(&members).then(|| Arc::from(members.join(",")));
        Self { state, ..self }
    }

    /// The context that a message carries, if it is well-formed and there is one alone.
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        let mut parents = headers.values(PARENT);
        let parent = std::str::from_utf8(parents.next()?).ok()?;
        if parents.next().is_some() {
            return None;
        }
        let state: Option<Vec<_>> =
            headers.values(STATE).map(|value| std::str::from_utf8(value).ok()).collect();
        Some(Self::parse(parent)?.with_state(state.unwrap_or_default()))
    }

    /// Writes the context into headers, in place of the one they have.
    pub fn write_to(&self, headers: &mut Headers) -> Result<()> {
        headers.set(PARENT, self.to_string())?;
        headers.remove(STATE);
        match &self.state {
            Some(state) => headers.append(STATE, state.to_string()),
            None => Ok(()),
        }
    }

    /// The trace's id.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span that is the parent of what happens in this context.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether the one before recorded this trace.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What vendors keep along with the trace, as one `tracestate` value.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// The value of a `traceparent` header of version `00`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, sampled, .. } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled))
    }
}

/// Lower-case hex of exactly this many digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let whole = text.len() == digits && text.bytes().all(lower);
    whole.then(|| u128::from_str_radix(text, 16).ok())?
}

fn valid_state(members: &[&str]) -> bool {
    if members.is_empty() || members.len() > MOST_STATE_MEMBERS {
        return false;
    }
    let mut keys = Vec::with_capacity(members.len());
    members.iter().all(|member| {
        let Some((key, value)) = member.split_once('=') else { return false };
        let new = !keys.contains(&key);
        keys.push(key);
        new && valid_key(key) && valid_value(value)
    })
}

fn valid_key(key: &str) -> bool {
    let rest = |text: &str, most: usize| {
        let allowed = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/')
        };
        !text.is_empty() && text.len() <= most && text.bytes().all(allowed)
    };
    let letter = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    match key.split_once('@') {
        None => letter(key) && rest(key, 256),
        Some((tenant, system)) => {
            (letter(tenant) || digit(tenant))
                && rest(tenant, 241)
                && letter(system)
                && rest(system, 14)
        }
    }
}

fn valid_value(value: &str) -> bool {
    let allowed = |b: u8| (0x20..=0x7e).contains(&b) && b != b',' && b != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(allowed) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_examples_of_the_recommendation_are_read() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.span_id(), 0xb7ad_6b71_6920_3331);
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), GOOD);
        let newer = format!("cc{}-what-comes-next", &GOOD[2..]);
        assert_eq!(TraceContext::parse(&newer).unwrap(), context, "written as version 00");
        let flags = TraceContext::parse(&GOOD.replace("-01", "-fe")).unwrap();
        assert!(!flags.is_sampled() && flags.to_string().ends_with("-00"));
    }

    #[test]
    fn what_the_recommendation_forbids_is_refused() {
        let zeros = "0".repeat(32);
        for bad in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}."),
            &format!("ff{}", &GOOD[2..]),
            &format!("01{}x", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &GOOD.replace('-', "_"),
            &GOOD.replace("b7ad", "+7ad"),
            &GOOD.replace("b7ad", "b7é"),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn state_is_joined_in_order_or_left_out_whole() {
        let state = |values: &[&str]| {
            let context = TraceContext::parse(GOOD).unwrap().with_state(values.iter().copied());
            context.state().map(str::to_owned)
        };
        let joined = state(&["rojo=00f067aa0ba902b7 ,\tcongo=t61rcWkgMzE", "", "0t@v=a b,,"]);
        assert_eq!(joined.unwrap(), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,0t@v=a b");
        for bad in ["a", "A=1", "a=", "a=1,a=2", "1a=1", "a@=1", "@a=1", "a@1=1", "a=b=c", "é=1"] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=1")).collect();
        assert!(state(&[&many[..32].join(",")]).is_some() && state(&[&many.join(",")]).is_none());
    }

    #[test]
    fn headers_carry_it_and_two_parents_are_none() {
        let mut headers = Headers::new();
        let context = TraceContext::parse(GOOD).unwrap().with_state(["a=1"]);
        context.write_to(&mut headers).unwrap();
        assert_eq!(TraceContext::from_headers(&headers), Some(context));
        headers.append(PARENT, GOOD).unwrap();
        assert_eq!(TraceContext::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = TraceContext::root(trace, span, sampled).unwrap();
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn nothing_panics_and_what_is_taken_is_well_formed(text in "\\PC{0,60}", state in "\\PC{0,80}") {
            if let Some(context) = TraceContext::parse(&text) {
                prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            }
            let context = TraceContext::parse(GOOD).unwrap().with_state([state.as_str()]);
            if let Some(kept) = context.state() {
                let again = context.clone().with_state([kept]);
                prop_assert_eq!(again.state(), Some(kept));
            }
        }

        #[test]
        fn one_wrong_byte_never_reads_as_a_longer_id(at in 0_usize..55, byte in 0_u8..128) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            let hex_place = !matches!(at, 2 | 35 | 52);
            let hex_byte = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let same_separator = !hex_place && byte == b'-';
            let expected = same_separator || (hex_place && hex_byte);
            // `ff` is the one version that is none.
            prop_assert!(TraceContext::parse(&text).is_none() || expected);
        }
    }
}
