//! What came of a request, in a few classes: for counting, and for a label of metrics.

use crate::failure::Failure;
use crate::job::Answer;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// A status of 200 to 299.
    Success,
    /// 300 to 399: redirects are not followed.
    Redirect,
    /// 400 to 499.
    ClientError,
    /// 500 to 599.
    ServerError,
    /// The limit of the whole request has passed.
    Timeout,
    /// The name has no address.
    Dns,
    /// There was no connection, or it was lost before an answer.
    Connect,
    /// No trusted TLS session.
    Tls,
    /// Address or port are not allowed.
    Refused,
    /// An answer that is none, a status beyond 599, or a request that cannot be made.
    Other,
    /// For want of something here: no attempt was counted.
    NotTried,
}

impl Class {
    /// Each class at the index that it has as a number.
    pub const ALL: [Class; 11] = [
        Class::Success,
        Class::Redirect,
        Class::ClientError,
        Class::ServerError,
        Class::Timeout,
        Class::Dns,
        Class::Connect,
        Class::Tls,
        Class::Refused,
        Class::Other,
        Class::NotTried,
    ];

    /// The class of a result.
    #[must_use]
    pub fn of(result: &Result<Answer, Failure>) -> Class {
        match result {
            Ok(answer) => match answer.status {
                200..300 => Class::Success,
                300..400 => Class::Redirect,
                400..500 => Class::ClientError,
                500..600 => Class::ServerError,
                _ => Class::Other,
            },
            Err(failure) => Class::from(failure),
        }
    }

    /// As a label of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Class::Success => "2xx",
            Class::Redirect => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
            Class::Timeout => "timeout",
            Class::Dns => "dns",
            Class::Connect => "connect",
            Class::Tls => "tls",
            Class::Refused => "refused",
            Class::Other => "other",
            Class::NotTried => "not_tried",
        }
    }
}

impl From<&Failure> for Class {
    fn from(failure: &Failure) -> Class {
        match failure {
            Failure::AddressRefused(_) | Failure::PortRefused => Class::Refused,
            Failure::NameNotFound => Class::Dns,
            Failure::ConnectionRefused
            | Failure::ConnectionReset
            | Failure::ConnectionClosed
            | Failure::Unreachable
            | Failure::Network => Class::Connect,
            Failure::TimedOut => Class::Timeout,
            Failure::Tls(_) => Class::Tls,
            Failure::BrokenResponse(_) | Failure::BadRequest(_) => Class::Other,
            Failure::ShutDown
            | Failure::ResolverLost
            | Failure::ProxyUnreachable
            | Failure::ProxyRefused(_)
            | Failure::LookupOverloaded
            | Failure::NoThread
            | Failure::NoDescriptor
            | Failure::NoMemory
            | Failure::Internal => Class::NotTried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn answer(status: u16) -> Result<Answer, Failure> {
        Ok(Answer {
            status,
            ..Answer::default()
        })
    }

    #[test]
    fn an_answer_is_counted_by_the_first_digit_of_its_status() {
        for (statuses, label) in [
            ([200, 204, 299], "2xx"),
            ([300, 304, 399], "3xx"),
            ([400, 429, 499], "4xx"),
            ([500, 503, 599], "5xx"),
            ([100, 600, 999], "other"),
        ] {
            for status in statuses {
                assert_eq!(Class::of(&answer(status)).label(), label, "{status}");
            }
        }
    }

    #[test]
    fn a_failure_is_counted_by_where_it_failed() {
        use Failure::*;
        for (failure, label) in [
            (AddressRefused(None), "refused"),
            (PortRefused, "refused"),
            (NameNotFound, "dns"),
            (ConnectionRefused, "connect"),
            (ConnectionReset, "connect"),
            (ConnectionClosed, "connect"),
            (Unreachable, "connect"),
            (Network, "connect"),
            (TimedOut, "timeout"),
            (Tls("expired"), "tls"),
            (BrokenResponse("not http"), "other"),
            (BadRequest("invalid url"), "other"),
            (Internal, "other"),
            (ShutDown, "not_tried"),
            (ResolverLost, "not_tried"),
            (ProxyUnreachable, "not_tried"),
            (ProxyRefused(407), "not_tried"),
            (LookupOverloaded, "not_tried"),
            (NoThread, "not_tried"),
            (NoDescriptor, "not_tried"),
            (NoMemory, "not_tried"),
        ] {
            let class = Class::of(&Err(failure));
            assert_eq!(class.label(), label, "{failure}");
            assert_eq!(class == Class::NotTried, failure.is_ours(), "{failure}");
        }
    }

    #[test]
    fn each_class_has_a_number_and_a_label_of_its_own() {
        let labels: HashSet<&str> = Class::ALL.iter().map(|it| it.label()).collect();
        assert_eq!(labels.len(), Class::ALL.len());
        for (number, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }
}
