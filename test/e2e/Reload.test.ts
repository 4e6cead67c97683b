/** A gateway whose configuration changes while it serves, in a process of its own. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { hash } from "node:crypto"
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs"
import path from "node:path"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { ask, codeOf, native, type Told } from "../fixtures/ChatClient.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

const auth = (more = ""): string => `
auth:
  mode: keys
  keys:
    - { id: admin, sha256: ${sha256("admin")}, tenant: acme, admin: true }
    - { id: below, sha256: ${sha256("below")}, tenant: child, admin: true }
    - { id: limited, sha256: ${sha256("limited")}, tenant: limited }
    - { id: rich, sha256: ${sha256("rich")}, tenant: rich }
${more}
tenants:
  acme: {}
  child: { parent: acme }
  limited: { rate_limits: [{ per: tenant, requests: 3, window: 1d }] }
  rich: { budgets: [{ per: tenant, usd: 1, window: total }] }
`

const provider = (slug: string, url: string): string =>
  `  ${slug}: { type: openai, base_url: "${url}/v1", api_key: secret, unlisted_models: allow }\n`

const priced = (...ids: ReadonlyArray<string>): string =>
  `models:\n${
    ids.map((id) => `  - { id: "${id}", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }\n`).join("")
  }`

let questions = 0
const chat = (
  gateway: ServedGateway,
  model: string,
  secret = "admin",
  more: Json = {}
): Promise<Told> =>
  ask({
    url: gateway.url,
    secret,
    id: `q${questions++}`,
    body: { model, messages: [{ role: "user", content: "hello" }], ...more }
  })

const outcome = (told: Told): string => told.isComplete ? "200" : `${told.status} ${codeOf(told)}`

const reload = async (gateway: ServedGateway, secret = "admin"): Promise<{ status: number; body: Json }> => {
  const response = await native(gateway, "/admin/reload", secret, {})
  const body = parsed(await response.text())
  return { status: response.status, body: isJson(body) ? body : {} }
}

const details = async (gateway: ServedGateway, secret = "admin"): Promise<Json> => {
  const response = await fetch(`${gateway.url}/health/ready`, { headers: { authorization: `Bearer ${secret}` } })
  const body = parsed(await response.text())
  return isJson(body) ? body : {}
}

const configuration = async (gateway: ServedGateway): Promise<Json> => {
  const { configuration } = await details(gateway)
  return isJson(configuration) ? configuration : {}
}

const until = async (holds: () => boolean | Promise<boolean>): Promise<void> => {
  const deadline = performance.now() + 20_000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error("it did not come to be in twenty seconds")
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

/** As editors and deployments do it: another file takes the place of the old one. */
const replace = (gateway: ServedGateway, yaml: string): void => {
  writeFileSync(`${gateway.file}.new`, yaml)
  renameSync(`${gateway.file}.new`, gateway.file)
}

describe("a configuration that is read anew", () => {
  it.live("is in force for what comes, while what runs finishes by the one before", () =>
    Effect.gen(function*() {
      const old = yield* FakeUpstream.make
      const next = yield* FakeUpstream.make
      let release = (): void => {}
      const released = new Promise<void>((resolve) => {
        release = resolve
      })
      old.reply(withFault(openAi.stream(), fault.hold(2, released)))
      old.always(openAi.answer())
      next.always(openAi.answer())
      const before = `server: { port: 0 }\n${auth()}providers:\n${provider("old", old.url)}`
      const gateway = yield* serve(before)
      yield* Effect.promise(async () => {
        const running = chat(gateway, "old::m", "admin", { stream: true })
        await old.waitForEvents(0, 2)
        replace(
          gateway,
          `server: { port: 0 }\n${auth()}providers:\n${provider("new", next.url)}` +
            "routes:\n  fast: { models: [\"new::m\"] }\n"
        )
        const { body, status } = await reload(gateway)
        assert.strictEqual(status, 200)
        assert.strictEqual(body["source"], gateway.file)
        assert.strictEqual(outcome(await chat(gateway, "fast")), "200")
        assert.strictEqual(outcome(await chat(gateway, "old::m")), "404 model_not_found")
        release()
        assert.isTrue((await running).isComplete)
      })
    }))

  it.live("keeps counters, budgets, keys and breakers, and takes keys and limits from the file", () =>
    Effect.gen(function*() {
      const upstream = yield* FakeUpstream.make
      const broken = yield* FakeUpstream.make
      upstream.always(openAi.answer())
      broken.always(openAi.error(503))
      const yaml = (keys: string, more = "") =>
        `server: { port: 0 }\n${auth(keys)}providers:\n${provider("p", upstream.url)}${provider("q", broken.url)}` +
        `${priced("p::m")}defaults: { attempts: 1, breaker: { failures: 2, open: 10m, max_open: 10m }, ` +
        `retry: { base: 1ms, max: 2ms } }\n${more}`
      const gateway = yield* serve(yaml(""))
      yield* Effect.promise(async () => {
        const issued = parsed(await (await native(gateway, "/admin/keys", "admin", { tenant: "acme" })).text())
        const stored = isJson(issued) ? String(issued["secret"]) : ""
        for (let request = 0; request < 2; request++) {
          assert.strictEqual(outcome(await chat(gateway, "p::m", "limited")), "200")
          await chat(gateway, "q::m")
        }
        assert.strictEqual(outcome(await chat(gateway, "p::m", "rich")), "200")
        const spent = () => native(gateway, "/budgets", "rich").then((response) => response.text())
        await until(async () =>
          (await spent()).includes("\"reserved_usd\":0") && !(await spent()).includes("\"spent_usd\":0,")
        )
        const before = await spent()
        const called = broken.requests.length
        const connections = upstream.connections()

        replace(gateway, yaml(`    - { id: fresh, sha256: ${sha256("fresh")}, tenant: acme }`))
        assert.strictEqual((await reload(gateway)).status, 200)

        assert.strictEqual(await spent(), before)
        assert.strictEqual(outcome(await chat(gateway, "p::m", stored)), "200")
        assert.strictEqual(outcome(await chat(gateway, "p::m", "fresh")), "200")
        assert.strictEqual(outcome(await chat(gateway, "p::m", "limited")), "200")
        assert.strictEqual(outcome(await chat(gateway, "p::m", "limited")), "429 rate_limited")
        const { breakers } = await details(gateway)
        assert.include(JSON.stringify(breakers), "\"provider\":\"q\",\"endpoint\":\"chat\",\"state\":\"open\"")
        assert.strictEqual(broken.requests.length, called)
        // A provider of which the file says the same keeps its connections.
        assert.strictEqual(upstream.connections(), connections)

        replace(gateway, yaml(""))
        assert.strictEqual((await reload(gateway)).status, 200)
        assert.strictEqual(outcome(await chat(gateway, "p::m", "fresh")), "401 unauthorized")
      })
    }))

  it.live("a file that is wrong, or changes what takes a restart, changes nothing and says why", () =>
    Effect.gen(function*() {
      const upstream = yield* FakeUpstream.make
      upstream.always(openAi.answer())
      const good = `server: { port: 0 }\n${auth()}providers:\n${provider("p", upstream.url)}`
      const gateway = yield* serve(good)
      yield* Effect.promise(async () => {
        const { sha256: first } = await configuration(gateway)
        const refused = async (yaml: string, pattern: RegExp): Promise<void> => {
          replace(gateway, yaml)
          const { body, status } = await reload(gateway)
          assert.strictEqual(status, 400)
          assert.match(String(body["detail"]), pattern)
          const told = await configuration(gateway)
          assert.strictEqual(told["sha256"], first)
          assert.match(JSON.stringify(told["refused"]), pattern)
          assert.match(gateway.said(), pattern)
          assert.strictEqual(outcome(await chat(gateway, "p::m")), "200")
        }
        await refused(`${good}routes:\n  fast: { modells: [] }\n`, /gateway\.yaml:\d+: routes\.fast\.modells/)
        await refused(good.replace("port: 0", "port: 1"), /gateway\.yaml:1: server\.port: .*restart/)
        await refused(
          `${good}storage: { sql: "sqlite:./other.db" }\n`,
          /gateway\.yaml:\d+: storage\.sql: .*restart/
        )
        await refused(`server: { port: 0 }\n${auth()}providers: {}\n`, /provider/)
        await refused(`${good}type_registry: { folder: ./nowhere }\n`, /nowhere/)
        replace(gateway, good)
        assert.strictEqual((await reload(gateway)).status, 200)
        assert.isUndefined((await configuration(gateway))["refused"])
      })
    }))

  it.live("is everybody's: administrators below another one may not change it, and strangers read nothing of it", () =>
    Effect.gen(function*() {
      const gateway = yield* serve(`server: { port: 0 }\n${auth()}providers:\n  s: { type: sandbox }\n`)
      yield* Effect.promise(async () => {
        assert.strictEqual((await reload(gateway, "below")).status, 403)
        assert.strictEqual((await reload(gateway, "rich")).status, 403)
        assert.strictEqual((await reload(gateway, "nobody")).status, 401)
        assert.deepStrictEqual(await details(gateway, "nobody"), { status: "ok" })
      })
    }))

  it.live(
    "comes without being asked for when the file changes: replaced, written over, or swapped as a ConfigMap is",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const yaml = (route: string) =>
          `server: { port: 0 }\n${auth()}providers:\n  s: { type: sandbox }\nroutes:\n  ${route}: { models: ["s::echo"] }\n`
        const gateway = yield* serve(yaml("first"), { folder })
        yield* Effect.promise(async () => {
          const serves = (route: string) => until(async () => outcome(await chat(gateway, route)) === "200")
          await serves("first")
          replace(gateway, yaml("second"))
          await serves("second")
          writeFileSync(gateway.file, yaml("third"))
          await serves("third")
          // The file becomes a link into a folder that is itself a link, which is swapped.
          for (const name of ["v1", "v2"]) mkdirSync(path.join(folder, name))
          writeFileSync(path.join(folder, "v1", "gateway.yaml"), yaml("fourth"))
          writeFileSync(path.join(folder, "v2", "gateway.yaml"), yaml("fifth"))
          symlinkSync("v1", path.join(folder, "..data"))
          symlinkSync(path.join("..data", "gateway.yaml"), `${gateway.file}.link`)
          renameSync(`${gateway.file}.link`, gateway.file)
          await serves("fourth")
          symlinkSync("v2", path.join(folder, "..data.new"))
          renameSync(path.join(folder, "..data.new"), path.join(folder, "..data"))
          await serves("fifth")
          process.kill(gateway.pid, "SIGHUP")
          await until(() => gateway.said().split("is in force").length > 5)
          assert.strictEqual(outcome(await chat(gateway, "fifth")), "200")
          assert.strictEqual(await gateway.end("SIGTERM"), 0)
        })
      }),
    60_000
  )

  it.live("breaks no request of many that run, and loses none of their records", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const upstream = yield* FakeUpstream.make
      upstream.always((request) => {
        const answer = openAi.answer()
        const script = request.json["stream"] === true ? withFault(answer, fault.trickle(2)) : answer
        return typeof script === "function" ? script(request) : script
      })
      const yaml = (attempts: number) =>
        `server: { port: 0 }\n${auth()}providers:\n${provider("p", upstream.url)}${priced("p::m")}` +
        `defaults: { attempts: ${attempts} }\nusage: { sinks: [{ type: sql }] }\n`
      const gateway = yield* serve(yaml(1), { folder })
      const told = yield* Effect.promise(async () => {
        const answers: Array<Told> = []
        const stop = new AbortController()
        const worker = async (number: number) => {
          while (!stop.signal.aborted) answers.push(await chat(gateway, "p::m", "rich", { stream: number % 2 === 0 }))
        }
        const load = Promise.all(Array.from({ length: 8 }, (_, number) => worker(number)))
        for (let round = 0; round < 8; round++) {
          replace(gateway, yaml(round + 2))
          assert.strictEqual((await reload(gateway)).status, 200)
        }
        stop.abort()
        await load
        assert.strictEqual(await gateway.end("SIGTERM"), 0)
        return answers
      })
      assert.isAbove(told.length, 16)
      assert.deepStrictEqual(told.filter(({ isComplete }) => !isComplete).map(outcome), [])
      const rows = yield* Effect.flatMap(SqlClient.SqlClient, (sql) =>
        sql<{ request_id: string }>`SELECT request_id FROM usage_records`).pipe(
          Effect.provide(Layer.orDie(Sql.layer(Redacted.make(`sqlite:${path.join(folder, "data", "gateway.db")}`))))
        )
      assert.sameMembers(
        rows.map(({ request_id }) =>
          request_id
        ),
        told.map(({ id }) => id)
      )
    }))
})
