//! Carts, stocks and accounts together, with a network between them that does what slotd may do: what is sent comes
//! late and in any order, is refused for good, and its outcome comes back at any time. It is more than slotd does:
//! messages of one session to another come in order, but for those that are tried again.

use super::{Session, seen};
use proptest::prelude::*;
use slotd_guest::{Value, json, test::Failure};
use std::time::Duration;

const CARTS: usize = 3;
const ITEMS: [(&str, u64, u64); 2] = [("tea", 4, 3), ("milk", 2, 5)];
/// The second one can't pay for much.
const ACCOUNTS: [(&str, u64); 2] = [("ann", 1_000), ("bob", 6)];

#[derive(Clone, Debug)]
enum Step {
    Add {
        cart: usize,
        item: usize,
        count: u64,
    },
    Checkout {
        cart: usize,
        account: usize,
    },
    Cancel {
        cart: usize,
    },
    /// One of those on their way arrives: which, as a part of all.
    Deliver {
        which: f64,
    },
    /// One of them is given up, after 20 attempts or because its service is not there.
    Refuse {
        which: f64,
    },
    /// An outcome comes back.
    Return {
        which: f64,
    },
    Pass {
        cart: usize,
        minutes: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let cart = || 0..CARTS;
    prop_oneof![
        4 => (cart(), 0..ITEMS.len(), 1..3_u64)
            .prop_map(|(cart, item, count)| Step::Add { cart, item, count }),
        2 => (cart(), 0..ACCOUNTS.len()).prop_map(|(cart, account)| Step::Checkout { cart, account }),
        1 => cart().prop_map(|cart| Step::Cancel { cart }),
        6 => (0.0..1.0).prop_map(|which| Step::Deliver { which }),
        1 => (0.0..1.0).prop_map(|which| Step::Refuse { which }),
        6 => (0.0..1.0).prop_map(|which| Step::Return { which }),
        2 => (cart(), 1..16_u64).prop_map(|(cart, minutes)| Step::Pass { cart, minutes }),
    ]
}

struct Outcome {
    cart: usize,
    name: String,
    /// The reply, or code and sentence of the refusal.
    result: Result<Vec<u8>, (String, String)>,
}

struct World {
    carts: Vec<Session>,
    stocks: Vec<Session>,
    accounts: Vec<Session>,
    /// How many of what each cart has sent are in `on_its_way`, or were.
    taken: Vec<usize>,
    /// The cart, and which of what it has sent.
    on_its_way: Vec<(usize, usize)>,
    outcomes: Vec<Outcome>,
}

fn pick<T>(from: &mut Vec<T>, which: f64) -> Option<T> {
    let at = (which * from.len() as f64) as usize;
    (at < from.len()).then(|| from.remove(at))
}

impl World {
    fn new() -> Self {
        let new = |message: Value| {
            let mut session = Session::new();
            session.send(None, &message).unwrap();
            session
        };
        let stock =
            |(_, count, price)| new(json!({"do": "restock", "count": count, "price": price}));
        let account = |(_, amount)| new(json!({"do": "deposit", "amount": amount}));
        Self {
            carts: (0..CARTS).map(|_| Session::new()).collect(),
            stocks: ITEMS.into_iter().map(stock).collect(),
            accounts: ACCOUNTS.into_iter().map(account).collect(),
            taken: vec![0; CARTS],
            on_its_way: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Add { cart, item, count } => {
                self.client(cart, json!({"do": "add", "item": ITEMS[item].0, "count": count}));
            }
            Step::Checkout { cart, account } => {
                self.client(cart, json!({"do": "checkout", "account": ACCOUNTS[account].0}));
            }
            Step::Cancel { cart } => self.client(cart, json!({"do": "cancel"})),
            Step::Deliver { which } => {
                if let Some(one) = pick(&mut self.on_its_way, which) {
                    self.deliver(one);
                }
            }
            Step::Refuse { which } => {
                if let Some((cart, at)) = pick(&mut self.on_its_way, which) {
                    let name = self.carts[cart].sent()[at].reply_as.clone().unwrap();
                    let result = Err(("plugin-trapped".into(), "It failed.".into()));
                    self.outcomes.push(Outcome { cart, name, result });
                }
            }
            Step::Return { which } => {
                if let Some(outcome) = pick(&mut self.outcomes, which) {
                    self.come_back(outcome);
                }
            }
            Step::Pass { cart, minutes } => {
                let fired = self.carts[cart].advance(Duration::from_secs(minutes * 60));
                assert!(fired.iter().all(|it| it.result.is_ok()), "{fired:?}");
            }
        }
        for cart in 0..CARTS {
            let sent = self.carts[cart].sent().len();
            self.on_its_way.extend((self.taken[cart]..sent).map(|at| (cart, at)));
            self.taken[cart] = sent;
        }
    }

    /// Whatever it says: a client may be told that it can't be now.
    fn client(&mut self, cart: usize, message: Value) {
        if let Err(failure) = self.carts[cart].send(None, &message) {
            assert!(matches!(failure, Failure::Rejected(_)), "{failure}");
        }
    }

    fn deliver(&mut self, (cart, at): (usize, usize)) {
        let sent = self.carts[cart].sent()[at].clone();
        let name = &*sent.to.session;
        let to = match &*sent.to.service {
            "stock" => &mut self.stocks[ITEMS.iter().position(|it| it.0 == name).unwrap()],
            _ => &mut self.accounts[ACCOUNTS.iter().position(|it| it.0 == name).unwrap()],
        };
        let delivery = to.message_from(("cart", format!("c{cart}"))).reply_wanted();
        let result = match delivery.deliver_bytes(&sent.content_type, sent.body) {
            Ok(reply) => Ok(reply.body),
            Err(Failure::Rejected(it)) => Err((it.code().to_owned(), it.message().to_owned())),
            Err(failure) => panic!("{failure}"),
        };
        self.outcomes.push(Outcome { cart, name: sent.reply_as.unwrap(), result });
    }

    fn come_back(&mut self, Outcome { cart, name, result }: Outcome) {
        let cart = &mut self.carts[cart];
        let handled = match result {
            Ok(body) => cart.answer_bytes(&name, "application/json", body),
            Err((code, message)) => cart.refuse(&name, &code, &message),
        };
        handled.unwrap();
    }

    /// Nothing fails any more, and time goes by.
    fn run_out(&mut self) {
        for _ in 0..10 {
            while !self.on_its_way.is_empty() || !self.outcomes.is_empty() {
                self.take(&Step::Deliver { which: 0.0 });
                self.take(&Step::Return { which: 0.0 });
            }
            for cart in 0..CARTS {
                self.take(&Step::Pass { cart, minutes: 15 });
            }
        }
        assert!(self.on_its_way.is_empty() && self.outcomes.is_empty());
    }

    /// Each thing is in one place.
    fn adds_up(&mut self) {
        for (stock, (item, count, _)) in self.stocks.iter_mut().zip(ITEMS) {
            let level = seen(stock);
            let of = |name: &str| level[name].as_u64().unwrap();
            assert_eq!(of("available") + of("reserved") + of("sold"), count, "{item}: {level}");
        }
    }

    /// All that is sold is paid for, all that is paid for is sold, and nothing is reserved.
    fn is_settled(&mut self) {
        let mut sold = 0;
        for (stock, (item, _, price)) in self.stocks.iter_mut().zip(ITEMS) {
            let level = seen(stock);
            assert_eq!(level["reserved"], 0, "{item}: {level}");
            assert_eq!(level["holds"], json!([]));
            sold += level["sold"].as_u64().unwrap() * price;
        }
        let mut paid = 0;
        for (account, (name, amount)) in self.accounts.iter_mut().zip(ACCOUNTS) {
            let account = seen(account);
            let charged = account["charged"].as_u64().unwrap();
            assert_eq!(charged + account["balance"].as_u64().unwrap(), amount, "{name}");
            paid += charged;
        }
        assert_eq!(sold, paid);
        for cart in self.carts.iter_mut().filter(|cart| cart.seq() > 0) {
            let view = seen(cart);
            let lines = view["lines"].as_array().unwrap();
            match view["status"].as_str() {
                Some("paid") => assert!(lines.iter().all(|it| it["step"] == "sold"), "{view}"),
                Some("released") => assert!(lines.is_empty(), "{view}"),
                _ => panic!("not settled: {view}"),
            }
            assert!(cart.timers().is_empty());
            let closed = cart.events().iter().filter(|event| event.kind == "closed").count();
            assert_eq!(closed, 1, "once: {:?}", cart.events());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What is counted twice, or nowhere, is oversold, or lost.
    #[test]
    fn any_order_of_outcomes_adds_up_and_leaves_nothing_reserved(
        steps in proptest::collection::vec(any_step(), 0..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.adds_up();
        }
        world.run_out();
        world.adds_up();
        world.is_settled();
    }
}
