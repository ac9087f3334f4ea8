{{- define "lockgate.name" -}}
{{- if eq .Release.Name .Chart.Name }}{{ .Chart.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "lockgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What selects the pods of a component: never changes. */}}
{{- define "lockgate.selector" -}}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "lockgate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "lockgate.busUrl" -}}
{{- if .Values.bus.url }}{{ .Values.bus.url }}
{{- else if .Values.nats.enabled }}nats://{{ include "lockgate.name" . }}-nats:4222
{{- else }}{{ fail "bus.url is empty and nats.enabled is false: name a NATS server, or enable the chart's own" }}
{{- end }}
{{- end }}

{{/* The restricted Pod Security level. */}}
{{- define "lockgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "lockgate.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* How a process connects to the bus, as a user of the credentials. */}}
{{- define "lockgate.busEnv" -}}
- { name: LOCKGATE_BUS, value: {{ include "lockgate.busUrl" .root | quote }} }
{{- if .root.Values.bus.credentials }}
- { name: LOCKGATE_NATS_NKEY_SEED, value: /etc/lockgate/nats/{{ .user }}.nk }
- { name: LOCKGATE_NATS_INBOX_PREFIX, value: _INBOX_{{ .user }} }
- { name: LOCKGATE_BUS_CA, value: /etc/lockgate/nats/ca.pem }
{{- end }}
{{- end }}

{{- define "lockgate.busMount" -}}
{{- if .root.Values.bus.credentials }}
- { name: nats, mountPath: /etc/lockgate/nats, readOnly: true }
{{- end }}
{{- end }}

{{/* Of the credentials only what this user needs reaches its pods. */}}
{{- define "lockgate.busVolume" -}}
{{- if .root.Values.bus.credentials }}
- name: nats
  secret:
    secretName: {{ .root.Values.bus.credentials }}
    defaultMode: 0440
    items:
      - { key: ca.pem, path: ca.pem }
      - { key: {{ .user }}.nk, path: {{ .user }}.nk }
{{- end }}
{{- end }}

{{/* The components, each with the roles that it runs and its settings. */}}
{{- define "lockgate.components" -}}
{{- if eq .Values.mode "together" -}}
together:
  roles: [registration, events, messages, dispatcher, prefill]
  http: true
{{- else -}}
registration: { roles: [registration], http: true }
events: { roles: [events], http: true }
messages: { roles: [messages], http: true }
dispatcher: { roles: [dispatcher], http: false }
prefill: { roles: [prefill], http: false }
{{- end }}
{{- end }}
