//! An API server in memory, as far as the operator speaks to one, with a Job controller that checks
//! what it is asked to do. It can fail, and it can kill the operator at any call.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use lockgate_model::{Incarnation, JobOutcome, Manifest, Report};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) const NAMESPACE: &str = "here";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How the pods of a Job end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Play {
    /// Well, after reporting.
    Well,
    /// With exit code 64 and this reason.
    Final(&'static str),
    /// Again and again, with these last words, until Kubernetes gives up.
    GivenUp(&'static str),
    /// Never: the deadline passes.
    Deadline,
    /// Not at all.
    Runs,
}

/// When a call kills the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// It does not arrive.
    Before,
    /// It is carried out, and the answer does not arrive.
    After,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) jobs: BTreeMap<String, Value>,
    pub(crate) config_maps: BTreeMap<String, Value>,
    /// The end of each Job, by name; [`Play::Well`] for the others.
    pub(crate) plays: BTreeMap<String, Play>,
    /// The uids of the Jobs whose pods were started, by name.
    pub(crate) started: BTreeMap<String, Vec<String>>,
    /// The order in which Jobs were started.
    pub(crate) order: Vec<String>,
    pub(crate) most_at_work: usize,
    pub(crate) events: Vec<String>,
    /// Every call but those of the watch.
    pub(crate) calls: Vec<String>,
    /// Refuses the calls that begin so, with this code.
    pub(crate) refuses: Option<(&'static str, u16)>,
    /// Which call kills.
    pub(crate) kill_at: Option<(usize, When)>,
    made: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    /// Cancelled when the operator is killed.
    pub(crate) killed: Arc<Mutex<CancellationToken>>,
}

impl Fake {
    pub(crate) fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        kube::Client::new(service, NAMESPACE)
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Cluster) -> T) -> T {
        look(&mut self.cluster.lock().unwrap())
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_watch = path.ends_with("/jobs")
            && parts.method == Method::GET
            && !query.contains("lockgate%2Fqueue");
        if is_watch && query.contains("watch=") {
            let nothing = StreamBody::new(futures_util::stream::pending());
            return Response::new(nothing.boxed_unsync());
        }
        if is_watch {
            return found(json!({"kind": "JobList", "apiVersion": "batch/v1", "items": [],
                                "metadata": {"resourceVersion": "1"}}));
        }
        let call = short(&parts.method, &path);
        let (number, kill) = self.with(|cluster| {
            cluster.calls.push(call.clone());
            let number = cluster.calls.len() - 1;
            (number, cluster.kill_at.filter(|(at, _)| *at == number).map(|(_, when)| when))
        });
        if kill == Some(When::Before) {
            return self.kill().await;
        }
        let refused = self.with(|cluster| {
            cluster.refuses.filter(|(prefix, _)| call.starts_with(prefix)).map(|(_, code)| code)
        });
        let answer = match refused {
            Some(code) => failure(code, &format!("call {number} is refused by the test")),
            None => self.with(|cluster| cluster.call(&parts.method, &path, &query, body)),
        };
        if kill == Some(When::After) {
            return self.kill().await;
        }
        answer
    }

    pub(crate) async fn kill<T>(&self) -> T {
        self.killed.lock().unwrap().cancel();
        std::future::pending().await
    }
}

/// `PATCH jobs/name`
fn short(method: &Method, path: &str) -> String {
    let inside = path.split(&format!("/namespaces/{NAMESPACE}/")).nth(1).unwrap_or(path);
    format!("{method} {inside}")
}

fn found(value: Value) -> Answer {
    Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn failure(code: u16, message: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                        "reason": "Test", "message": message});
    let mut answer = found(status);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

impl Cluster {
    fn call(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Answer {
        let inside = path.split(&format!("/namespaces/{NAMESPACE}/")).nth(1).unwrap_or_default();
        let (kind, name) = inside.split_once('/').unwrap_or((inside, ""));
        match (method.as_str(), kind) {
            ("GET", "jobs") if name.is_empty() => {
                self.go_on();
                let queue = query.split("queue%3D").nth(1).unwrap().split('&').next().unwrap();
                let mine = |job: &&Value| job["metadata"]["labels"]["lockgate/queue"] == queue;
                let items: Vec<_> = self.jobs.values().filter(mine).cloned().collect();
                found(
                    json!({"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": items}),
                )
            }
            ("GET", "jobs") => match self.jobs.get(name) {
                Some(job) => found(job.clone()),
                None => failure(404, "no such Job"),
            },
            ("POST", "jobs") => self.create_job(body),
            ("PATCH", "jobs") => self.patch_job(name, &body),
            ("DELETE", "jobs") => {
                assert_eq!(body["propagationPolicy"], "Background", "its pods would be left");
                match self.remove_job(name) {
                    Some(job) => found(job),
                    None => failure(404, "no such Job"),
                }
            }
            ("PATCH", "configmaps") => self.apply_config_map(name, query, body),
            ("DELETE", "configmaps") => match self.config_maps.remove(name) {
                Some(config_map) => found(config_map),
                None => failure(404, "no such ConfigMap"),
            },
            ("GET", "pods") => {
                let job = query.split("job-name%3D").nth(1).unwrap().split('&').next().unwrap();
                let items = self.pods(job);
                found(
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
                )
            }
            ("POST" | "PATCH", "events") => {
                let reason = body["reason"].as_str().unwrap_or_default();
                let about = body["regarding"]["name"].as_str().unwrap_or_default();
                self.events.push(format!("{reason} {about}"));
                found(body)
            }
            _ => panic!("the Role does not allow {method} {path}"),
        }
    }

    fn create_job(&mut self, mut job: Value) -> Answer {
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.len() <= 63, "{name}");
        if self.jobs.contains_key(&name) {
            return failure(409, "it exists");
        }
        self.made += 1;
        job["metadata"]["uid"] = json!(format!("uid-{}", self.made));
        job["metadata"]["namespace"] = json!(NAMESPACE);
        job["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.jobs.insert(name, job.clone());
        found(job)
    }

    fn patch_job(&mut self, name: &str, patch: &Value) -> Answer {
        let Some(job) = self.jobs.get_mut(name) else { return failure(404, "no such Job") };
        if job["metadata"]["uid"] != patch["metadata"]["uid"] {
            return failure(409, "it is another Job");
        }
        assert_eq!(patch["spec"], json!({"suspend": false}), "a Job is never suspended again");
        job["spec"]["suspend"] = json!(false);
        // Long ago, so that one that does not start is looked after at once.
        job["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
        found(job.clone())
    }

    fn apply_config_map(&mut self, name: &str, query: &str, config_map: Value) -> Answer {
        assert!(query.contains("fieldManager=lockgate-operator"), "{query}");
        if let Some(there) = self.config_maps.get(name)
            && there["data"] != config_map["data"]
        {
            return failure(422, "it is immutable");
        }
        self.config_maps.insert(name.to_owned(), config_map.clone());
        found(config_map)
    }

    /// Deletes a Job with all that belongs to it, as Kubernetes does.
    pub(crate) fn remove_job(&mut self, name: &str) -> Option<Value> {
        let job = self.jobs.remove(name)?;
        let uid = &job["metadata"]["uid"];
        self.config_maps.retain(|_, map| map["metadata"]["ownerReferences"][0]["uid"] != *uid);
        Some(job)
    }

    /// What the Job controller does between two looks: pods start where their input is there, and
    /// those that run end as they are to.
    fn go_on(&mut self) {
        let names: Vec<String> = self.jobs.keys().cloned().collect();
        for name in names {
            let play = self.plays.get(&name).cloned().unwrap_or(Play::Well);
            let Some(job) = self.jobs.get_mut(&name) else { continue };
            let uid = job["metadata"]["uid"].as_str().unwrap().to_owned();
            if job["spec"]["suspend"] == true || job["status"]["conditions"].is_array() {
                continue;
            }
            if job["status"]["ready"] == 1 {
                if play != Play::Runs {
                    job["status"]["ready"] = json!(0);
                    job["status"]["conditions"] = json!([condition(&play)]);
                }
                continue;
            }
            let mounts = job["spec"]["template"]["spec"]["volumes"].is_array();
            let owner = &self.config_maps.get(&name).map(|map| {
                map["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap().to_owned()
            });
            if !mounts || owner.as_deref() == Some(&uid) {
                job["status"]["ready"] = json!(1);
                self.started.entry(name.clone()).or_default().push(uid);
                self.order.push(name);
            }
        }
        self.most_at_work = self.most_at_work.max(self.at_work());
    }

    pub(crate) fn at_work(&self) -> usize {
        let at_work = |job: &&Value| {
            job["spec"]["suspend"] != true && !job["status"]["conditions"].is_array()
        };
        self.jobs.values().filter(at_work).count()
    }

    fn pods(&self, name: &str) -> Vec<Value> {
        let Some(job) = self.jobs.get(name) else { return Vec::new() };
        let of = job["metadata"]["annotations"]["lockgate/of"].as_str().unwrap_or_default();
        let Ok(of) = serde_json::from_str::<Incarnation>(of) else { return Vec::new() };
        let play = self.plays.get(name).cloned().unwrap_or(Play::Well);
        let (code, words) = match play {
            Play::Well => (0, reported(of).to_last_words()),
            Play::Final(why) => (64, JobOutcome::failed(why).to_last_words()),
            Play::GivenUp(words) => (1, words.to_owned()),
            // The controller has deleted them.
            Play::Deadline | Play::Runs => return Vec::new(),
        };
        let terminated = json!({"exitCode": code, "message": words,
                                "finishedAt": "2026-01-01T00:00:09Z"});
        let status = json!({"name": "p", "image": "i", "imageID": "", "ready": false,
                            "restartCount": 0, "state": {"terminated": terminated}});
        vec![json!({"metadata": {"name": format!("{name}-x")},
                    "status": {"containerStatuses": [status]}})]
    }
}

fn reported(of: Incarnation) -> JobOutcome {
    let generation = of.generation;
    let manifest = Manifest { generation, fence: [].into(), rows: 3, digest: String::new() };
    JobOutcome::reported(Report::PrefillDone { of, manifest })
}

fn condition(play: &Play) -> Value {
    let failed = |reason: &str| json!({"type": "Failed", "status": "True", "reason": reason, "message": "told"});
    match play {
        Play::Well | Play::Runs => json!({"type": "Complete", "status": "True"}),
        Play::Final(_) => failed("PodFailurePolicy"),
        Play::GivenUp(_) => failed("BackoffLimitExceeded"),
        Play::Deadline => failed("DeadlineExceeded"),
    }
}
