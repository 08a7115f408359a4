//! What Engine.IO reads of a request's path and query.
//!
//! Owns the reading, which must be that of engineioxide to the letter: a parameter that one of the two found and the
//! other did not would be a way past the seal. Pure.

use axum::http::Uri;

/// The path that Socket.IO clients come by.
const PATH: &str = "/socket.io";

/// The parameters of a request that are Engine.IO's own: of each the first one, and nothing is decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// The version of the protocol.
    pub version: Option<&'a str>,
    pub transport: Option<&'a str>,
    /// The session; a request without one opens one.
    pub sid: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// `None`: the path is not Socket.IO's.
    pub fn read(uri: &'a Uri) -> Option<Self> {
        let rest = uri.path().strip_prefix(PATH)?;
        if !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        let pairs = uri.query().unwrap_or_default();
        let first = |key| pairs.split('&').find_map(|pair| pair.strip_prefix(key));
        let up_to_equals = |value: &'a str| value.split('=').next();
        Some(Self {
            version: first("EIO=").and_then(up_to_equals),
            transport: first("transport=").and_then(up_to_equals),
            sid: first("sid="),
        })
    }
}

/// The request of a session that has this id, as engineioxide takes it.
pub fn of_session(transport: &str, sid: &str) -> Uri {
    let uri = Uri::try_from(format!("{PATH}/?EIO=4&transport={transport}&sid={sid}"));
    uri.expect("a session id has no character that a URI cannot have")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Option<(Option<&str>, Option<&str>, Option<&str>)> {
        // The uri must outlive what is read from it.
        let uri: &'static Uri = Box::leak(Box::new(uri.parse().unwrap()));
        Query::read(uri).map(|query| (query.version, query.transport, query.sid))
    }

    #[test]
    fn the_first_of_each_counts_and_nothing_is_decoded() {
        let all = Some((Some("4"), Some("polling"), Some("a=b")));
        assert_eq!(read("/socket.io/?EIO=4&transport=polling&sid=a=b&sid=c&EIO=3&transport=websocket"), all);
        assert_eq!(read("/socket.io?EIO=4=5&transport=polling=x&sid=a=b"), all);
        assert_eq!(read("/socket.io/any/?s%69d=a&%45IO=4&SID=b&xsid=c"), Some((None, None, None)));
        assert_eq!(read("/socket.io/?sid=&sid=a"), Some((None, None, Some(""))));
        assert_eq!(read("/socket.io"), Some((None, None, None)));
        for other in ["/", "/socket.iox/?sid=a", "/socket.io-fans", "/a/socket.io/", "/socket%2Eio/"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let uri = of_session("polling", "FWHKDkMSQS-LgF5_");
        let query = Query { version: Some("4"), transport: Some("polling"), sid: Some("FWHKDkMSQS-LgF5_") };
        assert_eq!(Query::read(&uri), Some(query));
    }
}
