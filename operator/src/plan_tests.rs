//! The plan, step by step and against a small cluster that does what Kubernetes does.

use proptest::prelude::*;

use super::*;

fn desired(tasks: &[(&str, u64)], at_once: usize) -> Desired {
    let tasks = tasks.iter().map(|(name, order)| ((*name).to_owned(), *order)).collect();
    Desired { tasks, at_once }
}

fn observed(jobs: &[(&str, Phase, u64)]) -> Observed {
    let state = |(name, phase, since): &(&str, Phase, u64)| {
        let since = Duration::from_secs(*since);
        ((*name).to_owned(), JobState { uid: format!("u-{name}"), phase: *phase, since })
    };
    Observed { jobs: jobs.iter().map(state).collect() }
}

/// What the plan says, in short.
fn steps(desired: &Desired, observed: &Observed) -> Vec<String> {
    let short = |action: Action| match action {
        Action::Create { name } => format!("create {name}"),
        Action::GiveInput { name, uid } => format!("input {name} {uid}"),
        Action::Release { name, uid } => format!("release {name} {uid}"),
        Action::Conclude { name, uid } => format!("conclude {name} {uid}"),
        Action::Remove { name, uid } => format!("remove {name} {uid}"),
    };
    plan(desired, observed).into_iter().map(short).collect()
}

#[test]
fn a_task_goes_through_its_steps_in_order() {
    let want = desired(&[("a", 1)], 1);
    let at = |phase| observed(&[("a", phase, 0)]);
    assert_eq!(steps(&want, &observed(&[])), ["create a"]);
    assert_eq!(steps(&want, &at(Phase::Suspended)), ["input a u-a", "release a u-a"]);
    assert_eq!(steps(&want, &at(Phase::Starting)), [""; 0]);
    assert_eq!(steps(&want, &at(Phase::Running)), [""; 0]);
    assert_eq!(steps(&want, &at(Phase::Ended)), ["conclude a u-a"]);
    assert_eq!(steps(&want, &at(Phase::Deleting)), [""; 0], "its name is not free yet");
}

#[test]
fn the_oldest_are_released_and_only_as_many_as_may_run() {
    let want = desired(&[("z", 1), ("a", 2), ("b", 3), ("c", 4)], 2);
    let waiting = |name| (name, Phase::Suspended, 0);
    let all = observed(&["a", "b", "c", "z"].map(waiting));
    let first = ["input z u-z", "release z u-z", "input a u-a", "release a u-a"];
    assert_eq!(steps(&want, &all), first);
    let busy = observed(&[("z", Phase::Running, 0), ("a", Phase::Deleting, 0), waiting("b")]);
    assert_eq!(steps(&want, &busy), ["create c"], "what is being deleted may still be at work");
}

#[test]
fn a_job_of_a_task_that_another_life_of_the_operator_held_counts() {
    let want = desired(&[("a", 1)], 1);
    let other = observed(&[("a", Phase::Suspended, 0), ("other", Phase::Running, 0)]);
    assert_eq!(steps(&want, &other), [""; 0]);
}

#[test]
fn an_input_that_may_be_missing_is_given_again() {
    let want = desired(&[("a", 1)], 1);
    assert_eq!(steps(&want, &observed(&[("a", Phase::Starting, 10)])), ["input a u-a"]);
    assert_eq!(steps(&want, &observed(&[("a", Phase::Running, 10)])), [""; 0]);
}

#[test]
fn what_nobody_waits_for_is_removed_late_and_only_while_it_has_not_begun() {
    let none = desired(&[], 5);
    assert_eq!(steps(&none, &observed(&[("a", Phase::Suspended, 599)])), [""; 0]);
    assert_eq!(steps(&none, &observed(&[("a", Phase::Suspended, 600)])), ["remove a u-a"]);
    for phase in [Phase::Starting, Phase::Running, Phase::Ended, Phase::Deleting] {
        assert_eq!(steps(&none, &observed(&[("a", phase, 9999)])), [""; 0], "{phase:?}");
    }
}

/// What happens besides the operator.
#[derive(Debug, Clone)]
enum Chance {
    /// The operator plans and carries out this many of its steps, then dies.
    Round(usize),
    /// A pod of this Job starts.
    Start(usize),
    /// A Job ends.
    End(usize),
    /// Somebody deletes a Job.
    Delete(usize),
    /// What is being deleted is gone.
    Gone,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        4 => (0usize..8).prop_map(Chance::Round),
        2 => (0usize..9).prop_map(Chance::Start),
        2 => (0usize..9).prop_map(Chance::End),
        1 => (0usize..9).prop_map(Chance::Delete),
        1 => Just(Chance::Gone),
    ];
    proptest::collection::vec(one, 0..60)
}

/// A cluster that checks what is done to it.
struct World {
    desired: Desired,
    observed: Observed,
    inputs: BTreeMap<String, String>,
    concluded: Vec<String>,
    made: u64,
}

impl World {
    fn new(tasks: usize, at_once: usize) -> Self {
        let tasks = (0..tasks).map(|n| (format!("job-{n}"), (n as u64 * 7) % 5)).collect();
        let desired = Desired { tasks, at_once };
        let (inputs, concluded) = (BTreeMap::new(), Vec::new());
        Self { desired, observed: Observed::default(), inputs, concluded, made: 0 }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create { name } => {
                assert!(!self.observed.jobs.contains_key(&name), "{name} exists");
                self.made += 1;
                let (uid, phase) = (self.made.to_string(), Phase::Suspended);
                self.observed.jobs.insert(name, JobState { uid, phase, since: Duration::ZERO });
            }
            Action::GiveInput { name, uid } => drop(self.inputs.insert(name, uid)),
            Action::Release { name, uid } => {
                assert_eq!(self.inputs.get(&name), Some(&uid), "released with its own input");
                let job = self.observed.jobs.get_mut(&name).unwrap();
                assert_eq!((job.phase, &job.uid), (Phase::Suspended, &uid));
                job.phase = Phase::Starting;
            }
            Action::Conclude { name, uid } => {
                let job = &self.observed.jobs[&name];
                assert_eq!((job.phase, &job.uid), (Phase::Ended, &uid));
                assert!(self.desired.tasks.remove(&name).is_some());
                self.concluded.push(name);
            }
            Action::Remove { name, .. } => panic!("{name} is young"),
        }
        let at_work = self.observed.jobs.values().filter(|job| job.phase.is_at_work()).count();
        assert!(at_work <= self.desired.at_once, "{at_work} at work");
    }

    fn round(&mut self, steps: usize) -> bool {
        let planned = plan(&self.desired, &self.observed);
        let acts = !planned.is_empty();
        planned.into_iter().take(steps).for_each(|action| self.apply(action));
        acts
    }

    fn happen(&mut self, chance: Chance) {
        let moved = |world: &mut Self, which: usize, from: &[Phase], to: Phase| {
            let jobs = world.observed.jobs.values_mut();
            if let Some(job) = jobs.filter(|job| from.contains(&job.phase)).nth(which) {
                job.phase = to;
            }
        };
        match chance {
            Chance::Round(steps) => drop(self.round(steps)),
            Chance::Start(which) => moved(self, which, &[Phase::Starting], Phase::Running),
            Chance::End(which) => {
                moved(self, which, &[Phase::Starting, Phase::Running], Phase::Ended);
            }
            Chance::Delete(which) => {
                let any = [Phase::Starting, Phase::Running, Phase::Ended];
                moved(self, which, &any, Phase::Deleting);
            }
            Chance::Gone => self.observed.jobs.retain(|_, job| job.phase != Phase::Deleting),
        }
    }
}

proptest! {
    /// Whatever happens, and wherever the operator dies: no name twice, no more at work than may
    /// be, no Job released without its input; and every task is concluded once.
    #[test]
    fn every_task_is_concluded_once(
        tasks in 0usize..9,
        at_once in 1usize..4,
        chances in chances(),
    ) {
        let mut world = World::new(tasks, at_once);
        for chance in chances {
            // Deleting a suspended or ended Job does not put a pod to work.
            let before = world.observed.jobs.values().filter(|j| j.phase.is_at_work()).count();
            if matches!(chance, Chance::Delete(_)) && before >= at_once {
                continue;
            }
            world.happen(chance);
        }
        for _ in 0..200 {
            let acted = world.round(usize::MAX);
            world.happen(Chance::Gone);
            world.happen(Chance::Start(0));
            world.happen(Chance::End(0));
            if !acted && world.desired.tasks.is_empty() {
                break;
            }
        }
        let mut concluded = world.concluded;
        concluded.sort();
        let all: Vec<_> = (0..tasks).map(|n| format!("job-{n}")).collect();
        prop_assert_eq!(concluded, all);
    }
}
