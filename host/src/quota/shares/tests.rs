use super::*;
use crate::{
    error::Code,
    message::{Incoming, Sent},
    names::SessionKey,
    operation::Message,
    slot::Mailed,
};
use futures_util::FutureExt as _;
use slotd_quota::shares::{Tick, Used};

type Answer = oneshot::Receiver<Result<Sent, Error>>;

struct Fixture {
    shares: Arc<Shares>,
    mailbox: Mailbox,
    now: std::cell::Cell<Duration>,
}

impl Fixture {
    /// A busy node, on which the service `flood` has had far more than its share.
    fn busy() -> Self {
        let shares = Shares::new(Loads::new(|service| service.as_str() != "nobody"), 1);
        let mailbox = Mailbox::detached(100_000);
        let this = Self { shares, mailbox, now: std::cell::Cell::default() };
        let second = Duration::from_secs(1);
        for _ in 0..2 {
            this.tick(second, second, second);
        }
        // Who is alone waits for nobody.
        assert!(this.bring("quiet", "first").0.unwrap().is_some());
        assert!(this.shares.controller.is_engaged());
        this
    }

    fn tick(&self, passed: Duration, busy: Duration, time: Duration) {
        self.now.set(self.now.get() + passed);
        let done = if time.is_zero() { 0 } else { 20_000 };
        let used = [Used { service: "flood", time, aside: Duration::ZERO, done, open: 0 }];
        let idle = passed.saturating_sub(busy);
        let tick = Tick { now: self.now.get(), busy, idle, delay: Duration::ZERO, services: &used };
        self.shares.controller.on(&tick);
    }

    /// Nothing is short any more.
    fn rest(&self) {
        for _ in 0..=slotd_quota::limits::SHARES_CALM_TICKS {
            self.tick(Duration::from_millis(10), Duration::ZERO, Duration::ZERO);
        }
        assert!(!self.shares.controller.is_engaged());
    }

    /// Brings a message; `None`: it waits.
    fn bring(&self, service: &str, body: &str) -> (Result<Option<Mail>, Error>, Answer) {
        let (mail, answer) = message(service, body);
        (self.shares.admit(&self.mailbox, mail), answer)
    }

    /// Brings one that waits.
    fn wait(&self, body: &str) -> Answer {
        let (admitted, answer) = self.bring("flood", body);
        assert!(admitted.unwrap().is_none(), "it goes");
        answer
    }

    fn waiting(&self) -> usize {
        self.shares.waiting().iter().map(|(_, count)| count).sum()
    }

    /// What is let out, in order.
    fn released(&self) -> Vec<String> {
        self.shares.release();
        self.mailed()
    }

    /// What the mailbox has.
    fn mailed(&self) -> Vec<String> {
        std::iter::from_fn(|| self.mailbox.next()).map(|mail| body(&mail)).collect()
    }
}

fn message(service: &str, body: &str) -> (Mail, Answer) {
    let (reply, answer) = oneshot::channel();
    let message = Incoming {
        id: None,
        sender: None,
        content_type: "text/plain".into(),
        body: body.to_owned().into(),
        trace: None,
        client: None,
    };
    let key = SessionKey::parse(service, "x").unwrap();
    (Message::new(key, message).mail(reply), answer)
}

fn body(mail: &Mail) -> String {
    let Mail::Message(message, _) = mail else { panic!("another mail") };
    String::from_utf8(message.message.body.to_vec()).unwrap()
}

/// Without it a quiet service's messages would wait behind a flood's, or those of a session change their order.
#[test]
fn one_beyond_its_share_waits_in_order_and_others_pass() {
    let busy = Fixture::busy();
    let answers: Vec<_> = (0..200).map(|n| busy.wait(&n.to_string())).collect();
    let (quiet, _answer) = busy.bring("quiet", "q");
    assert_eq!(quiet.unwrap().as_ref().map(body), Some("q".into()));
    let (nobody, _answer) = busy.bring("nobody", "n");
    assert!(nobody.unwrap().is_some(), "the slot says that there is no such service");
    assert_eq!((busy.waiting(), busy.released().len()), (200, 0));
    busy.rest();
    // It would go now, but others were there before.
    let last = busy.wait("last");
    let in_order: Vec<_> = (0..200).map(|n| n.to_string()).chain(["last".into()]).collect();
    assert_eq!(busy.released(), in_order);
    assert_eq!(busy.shares.waiting.load(Relaxed), 0);
    assert!(busy.bring("flood", "next").0.unwrap().is_some());
    drop((answers, last));
}

/// When its slot has moved, what comes later goes to the next owner; what waits here would be overtaken.
#[test]
fn what_waits_for_a_slot_that_leaves_goes_the_way_of_its_mail() {
    let busy = Fixture::busy();
    let other = Mailbox::detached(1);
    let _answers: Vec<_> = (0..5).map(|n| busy.wait(&n.to_string())).collect();
    let of_other: Vec<_> = (0..3)
        .map(|n| {
            let (mail, answer) = message("flood", &format!("other {n}"));
            assert!(busy.shares.admit(&other, mail).unwrap().is_none());
            answer
        })
        .collect();
    let turns: Arc<dyn Turns> = busy.shares.clone();
    other.close_detached(&turns);
    // One has a place in the mailbox; those behind it go back, to be sent to wherever the slot is then.
    assert_eq!(other.next().as_ref().map(body), Some("other 0".into()));
    for answer in of_other.into_iter().skip(1) {
        let error = answer.now_or_never().unwrap().unwrap().unwrap_err();
        assert!(error.is(Cause::NotOwner), "{error}");
    }
    let (late, _answer) = message("flood", "late");
    assert!(busy.shares.admit(&other, late).unwrap().is_some(), "its slot says that it has left");
    assert_eq!(busy.waiting(), 5);
    busy.mailbox.close_detached(&turns);
    assert_eq!(busy.mailed(), ["0", "1", "2", "3", "4"]);
    assert_eq!((busy.waiting(), busy.shares.waiting.load(Relaxed)), (0, 0));
}

/// A message of some bytes would wait for the megabytes of another service, also while there is time to spare.
#[test]
fn one_that_writes_much_waits_until_what_it_has_written_is_durable() {
    let busy = Fixture::busy();
    busy.rest();
    let service = ServiceName::parse("flood").unwrap();
    let load = busy.shares.loads.of(&service).unwrap();
    load.bound(slotd_quota::writes::Bound { most: 1_000, each: 600 });
    let first = load.has_written(600);
    let _waits = busy.wait("second");
    assert!(busy.bring("quiet", "q").0.unwrap().is_some());
    assert!(busy.released().is_empty());
    assert!(busy.shares.wait(&service, 0).is_some(), "what is due of it waits, too");
    drop(first);
    assert_eq!(busy.released(), ["second"]);
}

/// Lines would grow without end, or a message wait for longer than its client does and then be handled.
#[test]
fn lines_and_waits_have_an_end() {
    let busy = Fixture::busy();
    let mut answers: Vec<_> = (0..limits::SHARES_LINE_MAX).map(|_| busy.wait("m")).collect();
    let refused = busy.bring("flood", "too many").0.map(|_| ()).unwrap_err();
    assert_eq!(refused.code, Code::MailboxFull, "{refused}");
    assert!(busy.bring("quiet", "q").0.unwrap().is_some());
    // One whose client has gone takes nothing.
    drop(answers.remove(1));
    let service = ServiceName::parse("flood").unwrap();
    let long_ago = limits::SHARES_LINE_WAIT + Duration::from_secs(1);
    busy.shares.lines.lock().of.get_mut(&service).unwrap().waiting[0].since -= long_ago;
    assert!(busy.released().is_empty());
    let late = answers.remove(0).now_or_never().unwrap().unwrap().unwrap_err();
    assert!(late.code == Code::MailboxFull && late.detail.contains("too long"), "{late}");
    assert_eq!(busy.waiting(), limits::SHARES_LINE_MAX - 2);
}

/// A node that stops would keep who waits until its deadline.
#[tokio::test]
async fn a_node_that_stops_ends_all_lines() {
    let busy = Fixture::busy();
    let answer = busy.wait("m");
    let service = ServiceName::parse("flood").unwrap();
    let mut turn = Box::pin(busy.shares.turn(&service));
    assert!(futures_util::poll!(&mut turn).is_pending());
    busy.shares.close();
    assert!(answer.await.unwrap().unwrap_err().is(Cause::Stopping));
    assert!(turn.await.is_err());
    assert_eq!(busy.shares.waiting.load(Relaxed), 0);
    assert!(busy.bring("flood", "late").0.unwrap().is_some(), "its slot says that it has stopped");
}

/// What is due of a flooded service would be put off for ever by what waits in its line.
#[test]
fn what_is_due_is_put_off_but_not_for_ever() {
    let busy = Fixture::busy();
    let service = ServiceName::parse("flood").unwrap();
    assert!(busy.shares.wait(&service, 0).is_some_and(|wait| !wait.is_zero()));
    assert!(busy.shares.wait(&service, limits::SHARES_DUE_PUT_OFF_MAX).is_none());
    busy.rest();
    assert!(busy.shares.wait(&service, 0).is_none());
}
