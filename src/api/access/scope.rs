//! Scopes: what a caller may do, in the words that XTSystems' roles use too.

use std::str::FromStr;

/// The name of the security scheme by which the OpenAPI document says which scopes an operation needs.
pub const BEARER: &str = "bearer";

macro_rules! scopes {
    ($($(#[$doc:meta])* $scope:ident = $word:literal;)+) => {
        /// A permission.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Scope { $($(#[$doc])* $scope),+ }

        impl Scope {
            /// Every scope.
            pub const ALL: &[Self] = &[$(Self::$scope),+];

            /// The word in keys, tokens and the document.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$scope => $word),+ }
            }
        }
    };
}

scopes! {
    /// Read webhooks and their lanes.
    WebhooksRead = "webhooks:read";
    /// Create, change, pause, resume and test webhooks.
    WebhooksWrite = "webhooks:write";
    /// Delete webhooks.
    WebhooksDelete = "webhooks:delete";
    /// Publish events.
    EventsWrite = "events:write";
    /// Read events and event types.
    EventsRead = "events:read";
    /// Read deliveries, dead letters and replays, without bodies.
    DeliveriesRead = "deliveries:read";
    /// Replay deliveries.
    DeliveriesReplay = "deliveries:replay";
    /// Read the bodies of events and responses.
    PayloadsRead = "payloads:read";
    /// Create and revoke keys, and read the audit log.
    KeysManage = "keys:manage";
    /// Everything, including operations for all companies.
    Admin = "admin";
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
            format!("`{text}` is not a scope; the scopes are {}", words.join(", "))
        })
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// All of them.
    pub const ALL: Self = Self((1 << Scope::ALL.len()) - 1);

    /// Just this one.
    #[must_use]
    pub const fn of(scope: Scope) -> Self {
        Self(1 << scope as u16)
    }

    /// The scopes that the words of a token allow: XTSystems' own words, each with the scopes it implies, and the words of
    /// keys. `admin` is ignored in tokens, because it may have another meaning elsewhere.
    #[must_use]
    pub fn of_token<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        const READ: &[Scope] =
            &[Scope::WebhooksRead, Scope::DeliveriesRead, Scope::EventsRead, Scope::PayloadsRead];
        const WRITE: &[Scope] = &[Scope::WebhooksWrite, Scope::DeliveriesReplay, Scope::EventsWrite];
        let of = |scopes: &[Scope]| scopes.iter().copied().collect::<Self>();
        words.into_iter().fold(Self::default(), |held, word| {
            held.or(match word {
                "*" => Self::ALL,
                "webhooks:*" => of(READ).or(of(WRITE)).or(Self::of(Scope::WebhooksDelete)),
                "webhooks:read" => of(READ),
                "webhooks:write" => of(WRITE),
                "admin" => Self::default(),
                word => word.parse().map(Self::of).unwrap_or_default(),
            })
        })
    }

    /// Whether this may be done. Who may administer may do everything.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & (Self::of(scope).0 | Self::of(Scope::Admin).0) != 0
    }

    /// Whether any of these may be done.
    #[must_use]
    pub fn has_any(self, scopes: Self) -> bool {
        scopes.iter().any(|scope| self.has(scope))
    }

    /// Those in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |&scope| self.0 & Self::of(scope).0 != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::default(), |set, scope| set.or(Self::of(scope)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_admin_holds_everything() {
        let set: Scopes = [Scope::WebhooksRead, Scope::EventsWrite].into_iter().collect();
        assert!(set.has(Scope::WebhooksRead) && !set.has(Scope::WebhooksWrite) && !set.has(Scope::Admin));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Scope::WebhooksRead, Scope::EventsWrite]);
        assert!(
            Scope::ALL.iter().all(|&scope| Scopes::of(Scope::Admin).has(scope) && Scopes::ALL.has(scope))
        );
        assert!(!Scopes::default().has_any(Scopes::ALL));
    }

    #[test]
    fn the_words_of_xtsystems_bring_along_what_belongs_to_them() {
        let check = |words: &[&str], expected: &[&str]| {
            let held = Scopes::of_token(words.iter().copied());
            let held: Vec<_> = held.iter().map(Scope::as_str).collect();
            assert_eq!(held, expected, "{words:?}");
        };
        let read = ["webhooks:read", "events:read", "deliveries:read", "payloads:read"];
        check(&["webhooks:read"], &read);
        check(&["webhooks:write"], &["webhooks:write", "events:write", "deliveries:replay"]);
        check(&["webhooks:delete"], &["webhooks:delete"]);
        let all = Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>();
        check(&["webhooks:*"], &all[..8]);
        check(&["*"], &all);
        // Words of keys are words of tokens too; those of other services, and what only looks like one, are none.
        check(&["deliveries:read", "keys:manage"], &["deliveries:read", "keys:manage"]);
        check(&["admin", "users:*", "webhooks", "**", "WEBHOOKS:READ", ""], &[]);
    }

    #[test]
    fn words_are_read_back() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(*scope));
        }
        assert!("webhooks".parse::<Scope>().unwrap_err().contains("webhooks:read"));
    }
}
