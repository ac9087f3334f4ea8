//! The pods of the operator's Jobs: as they are configured, within what Kubernetes calls the
//! restricted level.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use crate::config::ConfigError;

/// The user of a pod that names none: not root, and nobody else's.
const USER: i64 = 65532;

/// Fills in what the restricted level and a Job that ends need and the configuration leaves open.
/// What it says is kept, unless it is against that: then it is refused, at the start of the operator
/// rather than at the first task.
pub fn restricted(mut pod: PodSpec) -> Result<PodSpec, ConfigError> {
    let bad = |what: &str| Err(ConfigError::new(format!("pod.{what}")));
    match pod.restart_policy.as_deref() {
        None | Some("Never") => pod.restart_policy = Some(String::from("Never")),
        Some(other) => {
            return bad(&format!(
                "restartPolicy is {other:?}: the Job starts a new pod after a failure, leave it out"
            ));
        }
    }
    for (set, name) in
        [(pod.host_network, "hostNetwork"), (pod.host_pid, "hostPID"), (pod.host_ipc, "hostIPC")]
    {
        if set == Some(true) {
            return bad(&format!("{name} is set: the restricted level forbids it"));
        }
    }
    if pod.containers.is_empty() {
        return bad("containers is empty: name one with its image");
    }
    pod.automount_service_account_token.get_or_insert(false);
    pod.enable_service_links.get_or_insert(false);
    let context = pod.security_context.get_or_insert_default();
    if context.run_as_user == Some(0) || context.run_as_non_root == Some(false) {
        return bad("securityContext runs as root: the restricted level forbids it");
    }
    fill_pod(context);
    let init = pod.init_containers.iter_mut().flatten();
    for container in pod.containers.iter_mut().chain(init) {
        restrict(container)?;
    }
    Ok(pod)
}

fn fill_pod(context: &mut PodSecurityContext) {
    context.run_as_non_root = Some(true);
    context.run_as_user.get_or_insert(USER);
    context.run_as_group.get_or_insert(USER);
    context.fs_group.get_or_insert(USER);
    context.seccomp_profile.get_or_insert_with(|| SeccompProfile {
        type_: String::from("RuntimeDefault"),
        ..SeccompProfile::default()
    });
}

fn restrict(container: &mut Container) -> Result<(), ConfigError> {
    let name = container.name.clone();
    let bad = |what: &str| Err(ConfigError::new(format!("pod container {name:?} {what}")));
    if container.image.as_deref().is_none_or(str::is_empty) {
        return bad("has no image: name one");
    }
    let context: &mut SecurityContext = container.security_context.get_or_insert_default();
    if context.privileged == Some(true) || context.allow_privilege_escalation == Some(true) {
        return bad("may gain privileges: the restricted level forbids it");
    }
    if context.run_as_user == Some(0) || context.run_as_non_root == Some(false) {
        return bad("runs as root: the restricted level forbids it");
    }
    context.allow_privilege_escalation = Some(false);
    context.read_only_root_filesystem.get_or_insert(true);
    let drop_all = || Capabilities { drop: Some(vec![String::from("ALL")]), add: None };
    context.capabilities.get_or_insert_with(drop_all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(toml: &str) -> PodSpec {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn what_is_left_open_is_filled() {
        let filled = restricted(pod("containers = [{ name = 'a', image = 'i' }]")).unwrap();
        assert_eq!(filled.restart_policy.as_deref(), Some("Never"));
        assert_eq!(filled.automount_service_account_token, Some(false));
        let context = filled.security_context.unwrap();
        assert_eq!((context.run_as_non_root, context.run_as_user), (Some(true), Some(USER)));
        assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let context = filled.containers[0].security_context.as_ref().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.read_only_root_filesystem, Some(true));
        assert_eq!(context.capabilities.as_ref().unwrap().drop, Some(vec!["ALL".to_owned()]));
    }

    #[test]
    fn what_is_said_is_kept() {
        let text = "automountServiceAccountToken = true\nsecurityContext = { runAsUser = 1000 }\n\
            containers = [{ name = 'a', image = 'i', securityContext = { readOnlyRootFilesystem = false } }]";
        let filled = restricted(pod(text)).unwrap();
        assert_eq!(filled.automount_service_account_token, Some(true));
        assert_eq!(filled.security_context.unwrap().run_as_user, Some(1000));
        let context = filled.containers[0].security_context.as_ref().unwrap();
        assert_eq!(context.read_only_root_filesystem, Some(false));
    }

    #[test]
    fn what_is_against_it_is_refused() {
        let one = "containers = [{ name = 'a', image = 'i' }]";
        for (text, why) in [
            (format!("hostNetwork = true\n{one}"), "hostNetwork"),
            (format!("restartPolicy = 'OnFailure'\n{one}"), "restartPolicy"),
            (format!("securityContext = {{ runAsUser = 0 }}\n{one}"), "root"),
            (String::from("containers = []"), "containers is empty"),
            (String::from("containers = [{ name = 'a' }]"), "no image"),
            (
                String::from(
                    "containers = [{ name = 'a', image = 'i', securityContext = { privileged = true } }]",
                ),
                "privileges",
            ),
        ] {
            let error = restricted(pod(&text)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
