use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAGE: usize = PAGE_BYTES;

async fn lease(budget: &Arc<Budget>, account: &Account) -> Lease {
    let mut lease = Lease::open(budget, account.clone(), TIMEOUT);
    lease.started(TIMEOUT).await.unwrap();
    lease
}

/// What an operator reads must be what is held, and nothing once it is given back.
#[tokio::test]
async fn what_is_taken_is_counted_and_given_back() {
    let budget = Budget::new(100 * PAGE);
    let (a, b) = (ServiceName::parse("a").unwrap(), ServiceName::parse("b").unwrap());
    let (of_a, of_b) = (budget.account(&a), budget.account(&b));
    let beside = limits::INSTANCE_BYTES_BESIDE;
    let mut one = lease(&budget, &of_a).await;
    let two = lease(&budget, &of_b).await;
    one.grow(3 * PAGE - 1, 0).await.unwrap();
    assert_eq!(one.bytes(), beside + 3 * PAGE);
    assert_eq!((budget.service(&a).instances(), budget.service(&b).instances()), (1, 1));
    assert_eq!(budget.service(&a).bytes(), (beside + 3 * PAGE) as u64);
    assert_eq!(budget.service(&b).bytes(), beside as u64);
    assert_eq!(budget.bytes_used(), 2 * beside + 3 * PAGE);
    drop(one);
    assert_eq!((budget.service(&a).bytes(), budget.service(&a).instances()), (0, 0));
    drop(two);
    assert_eq!((budget.bytes_used(), budget.service(&b).instances()), (0, 0));
}

/// Memory must never pass the bound; who waits gets what others give up, and is known to wait.
#[tokio::test]
async fn who_finds_none_waits_for_others_to_give_up() {
    let beside = limits::INSTANCE_BYTES_BESIDE;
    let budget = Budget::new(10 * PAGE + 2 * beside);
    let account = Account::default();
    let mut held = lease(&budget, &account).await;
    let mut other = lease(&budget, &account).await;
    held.grow(8 * PAGE, 0).await.unwrap();
    assert_eq!(budget.bytes_lacking(), 0);
    let waits = tokio::spawn(async move { other.grow(5 * PAGE, 0).await.map(|()| other) });
    budget.lacks().await;
    assert_eq!(budget.bytes_lacking(), 3 * PAGE);
    assert!(!waits.is_finished());
    drop(held);
    let other = waits.await.unwrap().unwrap();
    assert_eq!((budget.bytes_lacking(), budget.bytes_used()), (0, beside + 5 * PAGE));
    drop(other);
}

/// What there was room for may go to a call that runs, under those who wait for their turn.
/// Holders of idle instances must be notified then, or they wait in vain.
#[tokio::test]
async fn what_is_lacking_later_is_told_too() {
    let beside = limits::INSTANCE_BYTES_BESIDE;
    let budget = Budget::new(64 * PAGE);
    let account = Account::default();
    let mut runs = lease(&budget, &account).await;
    runs.grow((budget.pages_open_max - 2) * PAGE - beside, 0).await.unwrap();
    // One whose turn it is, and one behind it: for both of them there is room.
    let turn = budget.starting.turn.lock().await;
    let need = Need { pages: 1, maps: 0 };
    let before = Wanted::new(&budget, &budget.starting, &account, need);
    let waits = tokio::spawn({
        let mut behind = Lease::open(&budget, account.clone(), TIMEOUT);
        async move { behind.started(TIMEOUT).await.map(|()| behind) }
    });
    while budget.starting.pages_wanted.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    let asked = budget.lacks();
    tokio::pin!(asked);
    assert!(futures_util::poll!(&mut asked).is_pending());
    runs.grow(2 * PAGE, 0).await.unwrap();
    drop(turn);
    tokio::time::timeout(TIMEOUT, asked).await.expect("nobody is asked to release memory");
    drop((before, runs));
    waits.await.unwrap().unwrap();
}

/// Maps are a resource of their own: where they are used up, idle instances must give way, and a
/// call without one must get that as its error, rather than that the plugin is at fault; the
/// process must keep some, or it ends.
#[tokio::test]
async fn memory_maps_are_counted_and_named() {
    let budget = Budget::with_maps(1 << 30, 100);
    let account = Account::default();
    let mut held = Vec::new();
    let refused = loop {
        let mut one = Lease::open(&budget, account.clone(), Duration::from_millis(1));
        match one.grow(0, limits::MEMORY_MAPS).await {
            Ok(()) => held.push(one),
            Err(refused) => break refused,
        }
    };
    let each = limits::INSTANCE_MAPS_BESIDE + limits::MEMORY_MAPS;
    assert_eq!(held.len(), 75 / each, "a quarter is the process's own");
    assert!(refused.to_string().contains("vm.max_map_count"), "{refused}");
    assert_eq!((held[0].maps(), budget.is_lacking()), (each, false));
    let waits = tokio::spawn({
        let mut one = Lease::open(&budget, account.clone(), TIMEOUT);
        async move { one.grow(0, limits::MEMORY_MAPS).await.map(|()| one) }
    });
    budget.lacks().await;
    assert!(budget.maps_lacking() > 0);
    held.pop();
    let last = waits.await.unwrap().unwrap();
    drop((last, held));
    assert_eq!(budget.used.lock().maps, 0);
}

/// A wait has an end, and leaves nothing behind that says that someone still waits.
#[tokio::test]
async fn who_waits_in_vain_is_refused() {
    let beside = limits::INSTANCE_BYTES_BESIDE;
    let budget = Budget::new(4 * PAGE + beside);
    let mut lease = lease(&budget, &Account::default()).await;
    lease.left = Duration::from_millis(1);
    lease.grow(3 * PAGE, 0).await.unwrap();
    let refused = lease.grow(2 * PAGE, 0).await.unwrap_err();
    assert!(refused.to_string().contains("guests.memory_total"), "{refused}");
    // More than the node has at all: no use to wait.
    lease.left = Duration::from_secs(3_600);
    assert!(lease.grow(5 * PAGE + beside, 0).await.is_err());
    assert_eq!((budget.bytes_lacking(), lease.bytes()), (0, beside + 3 * PAGE));
    lease.grow(PAGE, 0).await.unwrap();
}

/// Were new instances to take the last page, calls that need one more would all wait for each
/// other.
#[tokio::test]
async fn new_instances_leave_some_to_those_that_run() {
    let budget = Budget::new(64 * PAGE);
    let account = Account::default();
    let mut first = lease(&budget, &account).await;
    let mut new = Lease::open(&budget, account.clone(), Duration::from_millis(1));
    assert!(new.grow(58 * PAGE, 0).await.is_err());
    assert_eq!(new.bytes(), 0, "who was refused holds something");
    new.grow(50 * PAGE, 0).await.unwrap();
    first.left = Duration::ZERO;
    first.grow(12 * PAGE, 0).await.unwrap();
    assert_eq!(budget.bytes_used(), 64 * PAGE);
}

/// An instance that has all it needs would wait for others to give up nothing, in vain.
#[tokio::test]
async fn who_needs_no_more_does_not_wait() {
    let budget = Budget::new(64 * PAGE);
    let account = Account::default();
    let mut runs = lease(&budget, &account).await;
    let mut new = Lease::open(&budget, account.clone(), Duration::ZERO);
    new.grow(PAGE, 0).await.unwrap();
    runs.grow(59 * PAGE, 0).await.unwrap();
    assert!(budget.bytes_used() > budget.pages_open_max * PAGE);
    new.started(TIMEOUT).await.unwrap();
}

/// One service's instances would take all memory, and whoever needs a little wait behind all of its calls.
#[tokio::test]
async fn a_service_that_holds_little_goes_before_one_that_fills_memory() {
    let budget = Budget::new(1_600 * PAGE);
    budget.share_out();
    let (greedy, quiet) = (Account::default(), Account::default());
    let open =
        |account: &Account, ms| Lease::open(&budget, account.clone(), Duration::from_millis(ms));
    let mut held = Vec::new();
    let waits = loop {
        let mut one = open(&greedy, 1);
        match one.grow(49 * PAGE, 0).await {
            Ok(()) => held.push(one),
            Err(_) => {
                let mut waits = Lease::open(&budget, greedy.clone(), TIMEOUT);
                break tokio::spawn(async move { waits.grow(49 * PAGE, 0).await.map(|()| waits) });
            }
        }
    };
    budget.lacks().await;
    // The greedy one waits already; this one gets its memory without waiting.
    let mut little = open(&quiet, 0);
    little.grow(40 * PAGE, 0).await.unwrap();
    // With what it has it is one of many, and waits; but the other has half already, and is not served before it.
    let mut more = Lease::open(&budget, quiet.clone(), TIMEOUT);
    let more = tokio::spawn(async move { more.grow(200 * PAGE, 0).await.map(|()| more) });
    while budget.waiting.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        held.pop();
    }
    let more = more.await.unwrap().unwrap();
    assert!(!waits.is_finished(), "{} pages", greedy.pages());
    drop((held, more, little));
    waits.await.unwrap().unwrap();
    assert!(budget.waiting.lock().is_empty());
}

/// Nobody who waits may be forgotten when several are served in turn.
#[tokio::test]
async fn all_who_wait_are_served() {
    let budget = Budget::new(64 * PAGE);
    let account = Account::default();
    let mut all = lease(&budget, &account).await;
    all.grow(55 * PAGE, 0).await.unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut one = Lease::open(&budget, account.clone(), TIMEOUT);
            tokio::spawn(async move { one.started(Duration::ZERO).await.map(|()| one) })
        })
        .collect();
    budget.lacks().await;
    tokio::task::yield_now().await;
    drop(all);
    for one in waiting {
        // Kept, so that each needs memory of its own.
        std::mem::forget(one.await.unwrap().unwrap());
    }
    assert_eq!(budget.bytes_lacking(), 0);
}
