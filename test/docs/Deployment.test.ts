/** The files under docs/operations: what a container and a cluster are told fits the gateway. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { spawnSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"
import { parse as parseYaml } from "yaml"
import { parse } from "../../src/config/ConfigFile.ts"
import { listenProblem } from "../../src/config/StartupNotices.ts"
import { at, list } from "../fixtures/Speakers.ts"
import { root } from "./Examples.ts"

const folder = path.join(root, "docs/operations")
const read = (name: string): string => readFileSync(path.join(folder, name), "utf8")
const yaml = (name: string): unknown => parseYaml(read(name))

const environment = {
  ADMIN_KEY_SHA256: "0".repeat(64),
  OPENAI_API_KEY: "sk-test",
  DATABASE_URL: "postgres://gateway:secret@postgres/gateway",
  REDIS_URL: "redis://redis:6379"
}

describe("the configuration of the container", () => {
  it("is one that the gateway takes and may listen with", () => {
    const config = Result.getOrThrow(parse(read("kubernetes/gateway.yaml"), "gateway.yaml", environment))
    assert.isUndefined(listenProblem(config))
    assert.strictEqual(config.server.port, 8080)
  })

  it("leaves each drain the time that it has", () => {
    const { server } = Result.getOrThrow(parse(read("kubernetes/gateway.yaml"), "gateway.yaml", environment))
    const grace = Number(
      at(yaml("kubernetes/deployment.yaml"), "spec", "template", "spec", "terminationGracePeriodSeconds")
    )
    assert.isAbove(grace * 1000, server.drainTimeout + 5_000)
    const stop = String(at(yaml("compose.yaml"), "services", "gateway", "stop_grace_period"))
    assert.isAbove(Number.parseInt(stop) * 1000, server.drainTimeout)
  })
})

describe("the Dockerfile", () => {
  const lines = read("Dockerfile").split("\n")
  it("runs as nobody in particular, with a health check, and hands signals to Node", () => {
    assert.include(lines, "USER node")
    assert.isTrue(lines.some((line) => line.startsWith("HEALTHCHECK")))
    const command: unknown = JSON.parse(lines.find((line) => line.startsWith("CMD "))?.slice(4) ?? "[]")
    assert.strictEqual(list(command)[0], "node")
    assert.include(list(command), "/app/dist/main.js")
  })

  it("copies what is there, and is sent nothing else", () => {
    const ignored = readFileSync(path.join(root, ".dockerignore"), "utf8").split("\n")
    const sent = ignored.flatMap((line) => line.startsWith("!") ? [line.slice(1)] : [])
    assert.strictEqual(ignored[0], "*")
    const copied = lines.filter((line) => line.startsWith("COPY ") && !line.includes("--from"))
      .flatMap((line) => line.split(" ").slice(1, -1))
    for (const name of copied) {
      assert.include(readdirSync(root), name)
      assert.include(sent, name)
    }
  })
})

describe("the cluster's files", () => {
  const pod = at(yaml("kubernetes/deployment.yaml"), "spec", "template", "spec")
  const container = at(pod, "containers", 0)

  it("probe what the gateway answers", () => {
    assert.strictEqual(at(container, "readinessProbe", "httpGet", "path"), "/health/ready")
    assert.strictEqual(at(container, "livenessProbe", "httpGet", "path"), "/health/live")
    assert.strictEqual(at(container, "ports", 0, "containerPort"), 8080)
  })

  it("give the container no more than it needs", () => {
    assert.isTrue(at(pod, "securityContext", "runAsNonRoot"))
    assert.isFalse(at(pod, "automountServiceAccountToken"))
    assert.isTrue(at(container, "securityContext", "readOnlyRootFilesystem"))
    assert.isFalse(at(container, "securityContext", "allowPrivilegeEscalation"))
    assert.deepStrictEqual(at(container, "securityContext", "capabilities", "drop"), ["ALL"])
  })

  const kustomize = spawnSync("kubectl", ["kustomize", path.join(folder, "kubernetes")], { encoding: "utf8" })
  it.skipIf(kustomize.error !== undefined)("are put together by kustomize, and select their own pods", () => {
    assert.strictEqual(kustomize.status, 0, kustomize.stderr)
    const documents = kustomize.stdout.split("\n---\n").map((text): unknown => parseYaml(text))
    const kinds = documents.map((document) => at(document, "kind"))
    assert.sameMembers(kinds, ["ConfigMap", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler"])
    const name = "app.kubernetes.io/name"
    const of = (kind: string) => documents.find((document) => at(document, "kind") === kind)
    assert.strictEqual(at(of("Service"), "spec", "selector", name), "llm-gateway")
    assert.strictEqual(at(of("PodDisruptionBudget"), "spec", "selector", "matchLabels", name), "llm-gateway")
    assert.strictEqual(at(of("Deployment"), "spec", "template", "metadata", "labels", name), "llm-gateway")
    const mounted = at(of("Deployment"), "spec", "template", "spec", "volumes", 0, "configMap", "name")
    assert.strictEqual(mounted, at(of("ConfigMap"), "metadata", "name"))
  })
})

describe("the compose file", () => {
  const services = at(yaml("compose.yaml"), "services")

  it("tells the gateway where what stands beside it is", () => {
    const told = at(services, "gateway", "environment")
    const collector = yaml("collector.yaml")
    const port = String(at(collector, "receivers", "otlp", "protocols", "http", "endpoint")).split(":")[1]
    assert.strictEqual(at(told, "OTEL_EXPORTER_OTLP_ENDPOINT"), `http://collector:${port}`)
    assert.include(String(at(told, "REDIS_URL")), "//redis:")
    assert.include(String(at(told, "DATABASE_URL")), "@postgres/")
    const config = Result.getOrThrow(
      parse(read("kubernetes/gateway.yaml"), "gateway.yaml", {
        ...environment,
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://collector:${port}`
      })
    )
    assert.strictEqual(config.observability.otlp, `http://collector:${port}`)
  })

  it("has a collector for each signal that the gateway sends", () => {
    const pipelines = at(yaml("collector.yaml"), "service", "pipelines")
    for (const signal of ["traces", "metrics"]) assert.deepStrictEqual(at(pipelines, signal, "receivers"), ["otlp"])
  })
})

describe("the alerts", () => {
  it("are all in the runbook", () => {
    const page = readFileSync(path.join(root, "docs/OPERATIONS.md"), "utf8")
    const rows = page.split("\n").filter((line) => line.startsWith("| ")).map((line) => line.split("|")[1] ?? "")
    const alerts = Array.from(read("alerts.yaml").matchAll(/- alert: (\w+)/g), ([, name = ""]) => name)
    assert.isAbove(alerts.length, 5)
    for (const alert of alerts) assert.isTrue(rows.some((names) => names.includes(alert)), alert)
  })
})
