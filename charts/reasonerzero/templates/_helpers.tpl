{{/* Names, labels and images that several templates use. */}}

{{- define "reasonerzero.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "reasonerzero.operator" -}}
{{ include "reasonerzero.fullname" . }}-operator
{{- end -}}

{{- define "reasonerzero.serviceAccount" -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name empty; the name of an existing ServiceAccount is required: set serviceAccount.name" -}}
{{- end -}}
{{- .Values.serviceAccount.name | default (include "reasonerzero.operator" .) -}}
{{- end -}}

{{/* Cluster-scoped names say which release they belong to: two releases may have the same name in two namespaces. */}}
{{- define "reasonerzero.clusterName" -}}
{{ include "reasonerzero.operator" . }}-{{ .Release.Namespace }}
{{- end -}}

{{- define "reasonerzero.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* The operator's pods as a NetworkPolicyPeer in JSON. Servers before 1.21 do not label namespaces with their names. */}}
{{- define "reasonerzero.operatorPeer" -}}
{{- $namespace := dict -}}
{{- if semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version -}}
{{- $namespace = dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- end -}}
{{- $pods := dict "matchLabels" (fromYaml (include "reasonerzero.selector" .)) -}}
{{- toJson (dict "namespaceSelector" $namespace "podSelector" $pods) -}}
{{- end -}}

{{/* Labels of an object: of (list $ .Values.podLabels) for one, whose second part is laid under the chart's own. */}}
{{- define "reasonerzero.labelsWith" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
-}}
{{- $selector := fromYaml (include "reasonerzero.selector" $root) -}}
{{- toYaml (merge $own $selector (deepCopy (index . 1)) $root.Values.commonLabels) -}}
{{- end -}}

{{- define "reasonerzero.labels" -}}
{{- include "reasonerzero.labelsWith" (list . dict) -}}
{{- end -}}

{{/* "REGISTRY/REPOSITORY:TAG", or "@DIGEST", of (list $ "operator"). */}}
{{- define "reasonerzero.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- with $root.Values.images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* The namespaces that are served, as a JSON list; empty: all. */}}
{{- define "reasonerzero.namespaces" -}}
{{- concat (compact (list .Values.watchNamespace)) .Values.watchNamespaces | uniq | toJson -}}
{{- end -}}

{{/* Where the notes' commands are tried first. */}}
{{- define "reasonerzero.firstNamespace" -}}
{{- first (append (include "reasonerzero.namespaces" . | fromJsonArray) "NAMESPACE") -}}
{{- end -}}

{{/* What the operator lays below the pods of runs, as it reads it (RZ_RUN_DEFAULTS). */}}
{{- define "reasonerzero.runDefaults" -}}
{{- $defaults := deepCopy .Values.runDefaults -}}
{{- if not $defaults.caBundle.configMap -}}
{{- $_ := unset $defaults "caBundle" -}}
{{- end -}}
{{- $defaults | toJson -}}
{{- end -}}

{{/* Restricted Pod Security, of pod and container. */}}
{{- define "reasonerzero.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.podSecurity.runAsUser) }}
runAsUser: {{ int64 .Values.podSecurity.runAsUser }}
{{- end }}
{{- if not (kindIs "invalid" .Values.podSecurity.runAsGroup) }}
runAsGroup: {{ int64 .Values.podSecurity.runAsGroup }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "reasonerzero.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* What the pods of `helm test` have in common. */}}
{{- define "reasonerzero.testPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "reasonerzero.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Any address but those of cloud metadata, or the ones that (list ...) names, as peers of an egress rule. */}}
{{- define "reasonerzero.addresses" -}}
{{- range . }}
- ipBlock: {cidr: {{ . | quote }}}
{{- else }}
- ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}
- ipBlock: {cidr: "::/0", except: ["fe80::/10", "fd00:ec2::/32"]}
{{- end }}
{{- end -}}

{{/* DNS wherever it is: cluster DNS is a pod, a node's cache has a link-local address. */}}
{{- define "reasonerzero.dns" -}}
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
{{- end -}}
