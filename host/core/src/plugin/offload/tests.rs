use super::{queue::Line, *};
use crate::plugin::{Failure, testkit};
use std::thread;

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

/// Runs in the pool until it has had so many slices, and writes its name down at each.
fn in_slices(
    pool: &Arc<OffloadPool>,
    name: &str,
    slices: usize,
    log: &Arc<Mutex<Vec<String>>>,
) -> tokio::task::JoinHandle<()> {
    let (pool, service, name, log) = (pool.clone(), service(name), name.to_owned(), log.clone());
    let signal = Arc::<Signal>::default();
    let of_call = signal.clone();
    let future = Box::pin(async move {
        for _ in 0..slices {
            log.lock().push(name.clone());
            of_call.clone().pause().await;
        }
    });
    tokio::spawn(async move {
        let begin = Begin::Offloaded { cost: Duration::ZERO };
        let work = Work { service: Some(&service), begin, signal: &signal, future };
        pool.run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending())).await;
    })
}

/// One service's calls that never seem to end would have those of another wait for all of them.
#[tokio::test]
async fn services_take_turns() {
    let (pool, log) = (Arc::new(OffloadPool::new(1)), Arc::default());
    let many: Vec<_> = (0..10).map(|_| in_slices(&pool, "many", 400, &log)).collect();
    while log.lock().len() < 40 {
        tokio::task::yield_now().await;
    }
    let before = log.lock().len();
    in_slices(&pool, "one", 5, &log).await.unwrap();
    let names = log.lock().clone();
    let last = names.iter().rposition(|name| name == "one").unwrap();
    let first = names.iter().position(|name| name == "one").unwrap();
    assert!(first >= before && last - first <= 2 * 5 + 2, "{first} to {last}");
    for call in many {
        call.await.unwrap();
    }
    // The thread that ended the last one forgets it a moment later.
    while !pool.shared.queue.lock().services.is_empty() {
        thread::yield_now();
    }
}

/// Calls that wait for their first turn must hold nothing, and a slot whose calls are short must
/// not wait behind those whose calls take all they may.
#[test]
fn few_begin_and_the_cheap_go_first() {
    let pool = OffloadPool::new(1);
    let push = |cost| {
        let future = Box::pin(async {
            for _ in 0..u64::MAX {
                Arc::<Signal>::default().pause().await;
            }
        });
        let body = Typed::<()> { future, done: None, took: Duration::ZERO, contained: true };
        let begin = Begin::Offloaded { cost: Duration::from_millis(cost) };
        assert!(pool.shared.push(Some(service("s")), begin, Box::new(body)).is_ok());
    };
    (0..40).for_each(|_| push(1_000));
    let begun = || pool.shared.queue.lock().services.get(&Some(service("s"))).map(|l| l.begun);
    while begun() != Some(limits::LONG_CALLS_BEGUN_MAX) {
        thread::yield_now();
    }
    push(20);
    let queue = pool.shared.queue.lock();
    let line = &queue.services[&Some(service("s"))];
    assert_eq!(
        (line.begun, line.waiting.len()),
        (limits::LONG_CALLS_BEGUN_MAX, 41 - limits::LONG_CALLS_BEGUN_MAX)
    );
    let (next, _) = line.waiting.first_key_value().unwrap();
    assert_eq!(next.0, Duration::from_millis(20), "the cheap one is not the next");
}

/// A job that no thread has.
fn job(pool: &OffloadPool, number: u64, status: Status) -> Arc<Job> {
    Arc::new(Job {
        service: Some(service("s")),
        place: (Duration::ZERO, number),
        shared: pool.shared.clone(),
        runtime: None,
        status: Mutex::new(status),
        hurried: AtomicBool::new(false),
        body: Mutex::new(None),
    })
}

/// New calls that end in their first slice could keep those that have begun from going on, for as
/// long as more of them come.
#[test]
fn those_that_have_begun_get_every_second_turn() {
    let (pool, mut line) = (OffloadPool::new(1), Line::default());
    for number in 0..3 {
        let new = job(&pool, number, Status::Waiting);
        line.waiting.insert(new.place, new);
        line.ready.push_back(job(&pool, 10 + number, Status::Ready));
    }
    let next = || Some(line.next_job(10)?.place.1);
    let turns: Vec<u64> = std::iter::from_fn(next).collect();
    assert_eq!(turns, [0, 10, 1, 11, 2, 12]);
}

/// A call whose slot has to move is waited for: cut short while it runs, it must not wait for the
/// turns of all others before it ends.
#[test]
fn a_call_that_was_cut_while_it_ran_goes_before_others() {
    let pool = OffloadPool::new(1);
    let cut = job(&pool, 1, Status::Running { woken: true });
    let mut queue = pool.shared.queue.lock();
    queue.goes_on(&job(&pool, 0, Status::Ready));
    drop(queue);
    pool.shared.hurry(&cut);
    pool.shared.hurry(&cut);
    let mut queue = pool.shared.queue.lock();
    assert!(queue.urgent.is_empty(), "it runs still");
    queue.goes_on(&cut);
    let order: Vec<u64> = std::iter::from_fn(|| Some(queue.next_job()?.place.1)).collect();
    assert_eq!(order, [1, 0]);
}

/// Without a bound, calls that wait would be as many as clients want.
#[tokio::test]
async fn too_many_are_refused() {
    let pool = Arc::new(OffloadPool::new(1));
    let (service, waiting) = (service("s"), Begin::Offloaded { cost: Duration::ZERO });
    for _ in 0..limits::LONG_CALLS_MAX {
        let body = Typed::<()> {
            future: Box::pin(std::future::pending()),
            done: None,
            took: Duration::ZERO,
            contained: true,
        };
        assert!(pool.shared.push(Some(service.clone()), waiting, Box::new(body)).is_ok());
    }
    let signal = Arc::<Signal>::default();
    let of_call = signal.clone();
    let future = Box::pin(async move { of_call.is_cut() });
    let work = Work { service: Some(&service), begin: waiting, signal: &signal, future };
    let ran = pool.run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending())).await;
    assert_eq!(ran.output, Some(Cut::Full));
}

/// A guest in a loop must leave the thread that serves after its first slice, end at its running
/// time, and give its session's state back.
#[tokio::test(flavor = "current_thread")]
async fn a_spinning_guest_leaves_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let deadline = Duration::from_millis(300);
    let options = crate::plugin::PluginOptions { deadline, ..testkit::options(dir.path()) };
    let host = crate::plugin::PluginHost::new(options).unwrap();
    let plugin = host.add(testkit::guest().into()).await.unwrap();
    let name = service("s");
    let guests = host.pool().add(&name, 1, "1".into(), plugin);
    let spin = |signal: &Arc<Signal>| {
        let mut call = testkit::call(testkit::message(b"l"));
        call.state.set("k", "kept".into()).unwrap();
        let signal = signal.clone();
        let thread = thread::current().id();
        let guests = guests.clone();
        Box::pin(async move {
            let outcome = guests.call(call, signal).await;
            (outcome, thread::current().id() == thread)
        })
    };
    let signal = Arc::<Signal>::default();
    let work =
        Work { service: Some(&name), begin: Begin::Here, signal: &signal, future: spin(&signal) };
    let ran = host
        .offload_pool()
        .run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending()))
        .await;
    let (outcome, here) = ran.output;
    assert!(!here && ran.offloaded.is_some(), "it ended on the thread that serves");
    assert!(matches!(outcome.result, Err(Failure::Deadline(d)) if d == deadline));
    assert_eq!(testkit::state_of(outcome).get("k").unwrap(), "kept");
    // One that nobody waits for ends at once, also before it begins.
    for begin in [Begin::Here, Begin::Offloaded { cost: Duration::ZERO }] {
        signal.reset();
        let work = Work { service: Some(&name), begin, signal: &signal, future: spin(&signal) };
        let gone = &mut |_: &mut Context<'_>| Poll::Ready(());
        let ran = host.offload_pool().run(work, gone, || Box::pin(std::future::pending())).await;
        assert!(matches!(ran.output.0.result, Err(Failure::Cut(Cut::Gone))));
        assert_eq!(testkit::state_of(ran.output.0).get("k").unwrap(), "kept");
    }
}

/// A bug in the host that shows under a long call must end its slot's task as it would there, not
/// a thread of the pool, nor leave the slot waiting.
#[tokio::test]
async fn a_panic_goes_back_to_who_waits() {
    let pool = Arc::new(OffloadPool::new(1));
    fn fails() {
        panic!("as the test wants it")
    }
    for _ in 0..3 {
        let pool = pool.clone();
        let waits = tokio::spawn(async move {
            let signal = Arc::<Signal>::default();
            let future = Box::pin(async { fails() });
            let begin = Begin::Offloaded { cost: Duration::ZERO };
            let work = Work::<()> { service: None, begin, signal: &signal, future };
            pool.run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending())).await;
        });
        assert!(waits.await.is_err_and(|error| error.is_panic()));
    }
}

/// The panic hook would end the node for a bug that ends one slot where its call is not long.
#[tokio::test]
async fn a_panic_is_contained_where_that_of_a_short_call_is() {
    let pool = OffloadPool::new(1);
    let contained = || async {
        let signal = Arc::<Signal>::default();
        let future = Box::pin(async { panics::is_contained() });
        let begin = Begin::Offloaded { cost: Duration::ZERO };
        let work = Work { service: None, begin, signal: &signal, future };
        pool.run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending())).await.output
    };
    assert!(panics::contain("slot", contained()).await.unwrap());
    assert!(!contained().await);
}
