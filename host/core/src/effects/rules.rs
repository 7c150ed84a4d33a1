//! Which services may send messages to which.

use crate::names::ServiceName;

/// Pairs of services, written `FROM>TO`; `*` on either side is any. None: nobody sends anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendRules(Vec<(Side, Side)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Any,
    Service(ServiceName),
}

impl SendRules {
    /// From a list of pairs with commas in between: `cart>stock, chat>*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let side = |text: &str| match text.trim() {
            "*" => Ok(Side::Any),
            name => ServiceName::parse(name).map(Side::Service).map_err(|e| e.detail.into_owned()),
        };
        let pair = |text: &str| match text.split_once('>') {
            Some((from, to)) => Ok((side(from)?, side(to)?)),
            None => Err(format!("{:?} is no pair of services: write `cart>stock`", text.trim())),
        };
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        pairs.map(pair).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn allow(&self, from: &ServiceName, to: &ServiceName) -> bool {
        self.0.iter().any(|(first, second)| first.is(from) && second.is(to))
    }
}

impl Side {
    fn is(&self, name: &ServiceName) -> bool {
        match self {
            Self::Any => true,
            Self::Service(service) => service == name,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A service that nobody has allowed it would write to others' sessions.
    #[test]
    fn only_pairs_that_are_named_may_send() {
        let service = |name: &str| ServiceName::parse(name).unwrap();
        let rules = SendRules::parse("cart>stock, chat>*,").unwrap();
        let allows = |from: &str, to: &str| rules.allow(&service(from), &service(to));
        assert!(allows("cart", "stock") && allows("chat", "stock") && allows("chat", "chat"));
        assert!(!allows("stock", "cart") && !allows("cart", "cart") && !allows("cart", "chat"));
        assert!(!SendRules::default().allow(&service("a"), &service("a")));
        assert!(SendRules::parse("*>*").unwrap().allow(&service("a"), &service("b")));
        for wrong in ["cart", "cart>", ">cart", "Cart>a", "a>b>c"] {
            assert!(SendRules::parse(wrong).is_err(), "{wrong}");
        }
    }
}
