/**
 * The package as others get it: built, packed, and put into a project of its own, which is type-checked and run on the Node that the
 * gateway brings. Its dependencies are those of this checkout, so that nothing is fetched.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFile, spawn } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { createInterface } from "node:readline"
import { promisify } from "node:util"

const run = promisify(execFile)
const root = path.resolve(import.meta.dirname, "../..")
const modules = path.join(root, "node_modules")
const tsc = path.join(modules, "typescript/bin/tsc")

let folder: string
let tarball: string
let project: string

const node = (args: ReadonlyArray<string>, cwd: string, environment: Readonly<Record<string, string>> = {}) =>
  run(process.execPath, args, { cwd, env: { PATH: path.dirname(process.execPath), ...environment }, maxBuffer: 1e8 })
    .then(({ stdout }) => stdout.trimEnd().split("\n"), (error: unknown) => {
      const { stderr, stdout } = error instanceof Error && "stdout" in error && "stderr" in error
        ? error
        : { stdout: "", stderr: "" }
      throw new Error(`${String(error)}\n${String(stdout)}\n${String(stderr)}`)
    })

/** Every package of this checkout, linked into the project beside the packed one. */
const linkPackages = (into: string): void => {
  for (const name of readdirSync(modules)) {
    if (name.startsWith(".")) continue
    if (!name.startsWith("@")) symlinkSync(path.join(modules, name), path.join(into, name))
    else {
      mkdirSync(path.join(into, name))
      for (const inner of readdirSync(path.join(modules, name))) {
        symlinkSync(path.join(modules, name, inner), path.join(into, name, inner))
      }
    }
  }
}

const files = {
  "package.json": JSON.stringify({ name: "consumer", type: "module", private: true }),
  "tsconfig.json": JSON.stringify({
    include: ["*.ts"],
    compilerOptions: {
      target: "ES2023",
      lib: ["ES2024"],
      module: "NodeNext",
      types: ["node"],
      noEmit: true,
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: true
    }
  }),
  "app.ts": `
import { Console, Effect, Layer } from "effect"
import {
  Content, Gateway, ModelRegistryLayer, OutboundUndici, Provider, Registries, TypeRegistry, UsageSink
} from "llm-gateway"

const Shouting = Provider.layer(Effect.succeed({
  slug: "shouting",
  kind: "shouting",
  wire: "shouting",
  unlistedModels: "allow" as const,
  chat: ({ model, request }) => Effect.succeed({
    id: "1",
    model: model.model,
    content: [Content.text(Content.textOf(request.messages[0].content).toUpperCase())],
    finishReason: "stop" as const,
    usage: { inputTokens: 3, outputTokens: 4 }
  })
}))
const Counting = UsageSink.layer({
  name: "counting",
  write: (records) => Effect.forEach(records, ({ modelUsed, usage }) =>
    Console.log(\`\${modelUsed}: \${usage.inputTokens} + \${usage.outputTokens}\`), { discard: true })
})
const App = Gateway.layer().pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Layer.mergeAll(Shouting, Counting)),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)
await Effect.runPromise(Effect.gen(function*() {
  const gateway = yield* Gateway
  const answer = yield* gateway.chat({ model: "shouting::m", messages: [{ role: "user", content: [Content.text("hello")] }] })
  yield* Console.log(Content.textOf(answer.content))
}).pipe(Effect.provide(App)))
`,
  "rpc.ts": `
import { Config, Console, Effect, Stream } from "effect"
import { GatewayClient } from "llm-gateway/client"
import { type ChatRequest, Content } from "llm-gateway/sdk"

const ask = (model: string): ChatRequest => ({ model, messages: [{ role: "user", content: [Content.text("Hello!")] }] })
const program = Effect.gen(function*() {
  const client = yield* GatewayClient
  yield* Console.log(Content.textOf((yield* client.chat(ask("sandbox::echo"))).content))
  const chunks = yield* Stream.runCollect(client.streamChat(ask("sandbox::tokens-5")))
  yield* Console.log(chunks.filter(({ delta }) => delta.length > 0).length)
  yield* client.chat(ask("sandbox::fail-503")).pipe(
    Effect.catchReason("GatewayError", "ProviderFailed", ({ kind }) => Console.log(kind))
  )
})
const url = Effect.runSync(Config.String("GATEWAY_URL"))
await Effect.runPromise(program.pipe(Effect.provide(GatewayClient.layerHttp({ url }))))
await Effect.runPromise(program.pipe(Effect.provide(GatewayClient.layerWebSocket({ url }))))
`,
  "ai.ts": `
import { Config, Console, Effect, Layer, Schema } from "effect"
import { LanguageModel, Tool, Toolkit } from "effect/ai"
import { GatewayClient, GatewayLanguageModel } from "llm-gateway/client"

const GetWeather = Tool.make("get_weather", { parameters: Schema.Struct({ city: Schema.String }), success: Schema.String })
const toolkit = Toolkit.make(GetWeather)
const url = Effect.runSync(Config.String("GATEWAY_URL"))
const Client = GatewayClient.layerHttp({ url })

const withTools = Effect.gen(function*() {
  const { toolResults } = yield* LanguageModel.generateText({ prompt: "The weather in Paris?", toolkit })
  yield* Console.log(toolResults.map(({ name }) => name).join())
}).pipe(Effect.provide([
  GatewayLanguageModel.model("sandbox::tools"),
  toolkit.toLayer({ get_weather: ({ city }) => Effect.succeed(\`sunny in \${city}\`) })
]))
const withObject = Effect.gen(function*() {
  const { value } = yield* LanguageModel.generateObject({ prompt: "A person", schema: Schema.Struct({ name: Schema.String }) })
  yield* Console.log(typeof value.name)
}).pipe(Effect.provide(GatewayLanguageModel.model("sandbox::json")))

await Effect.runPromise(Effect.andThen(withTools, withObject).pipe(Effect.provide(Client)))
`,
  "testing.ts": `
import { Console, Effect, Layer } from "effect"
import { Content, Gateway, ModelRegistryLayer, OutboundUndici, Registries, TypeRegistry } from "llm-gateway"
import { GatewayServer } from "llm-gateway/server"
import { Recorder, ScriptedProvider } from "llm-gateway/testing"

const scripted = ScriptedProvider.make()
const usage = Recorder.usage()
scripted.reply(ScriptedProvider.fails("transient"), ScriptedProvider.says("Hello"))
const App = Gateway.layer({ ledger: { durability: "strict" } }).pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Layer.mergeAll(scripted.layer, usage.layer)),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)
await Effect.runPromise(Effect.gen(function*() {
  const gateway = yield* Gateway
  const answer = yield* gateway.chat({ model: "scripted::m", messages: [{ role: "user", content: [Content.text("hi")] }] })
  yield* Console.log(\`\${Content.textOf(answer.content)} after \${scripted.asked.length} calls, \${usage.records.length} record\`)
  yield* Console.log(typeof GatewayServer.mount)
}).pipe(Effect.provide(App)))
`
}

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-package-"))
  const source = path.join(folder, "package")
  mkdirSync(source)
  for (const name of ["package.json", "README.md", "LICENSE"]) cpSync(path.join(root, name), path.join(source, name))
  await node([tsc, "-p", path.join(root, "tsconfig.build.json"), "--outDir", path.join(source, "dist")], root)
  const { stdout } = await run("npm", ["pack", "--ignore-scripts", "--json"], { cwd: source })
  const packed: unknown = JSON.parse(stdout)
  const name = /"filename":\s*"([^"]+)"/.exec(JSON.stringify(packed))?.[1] ?? ""
  tarball = path.join(source, name)
  project = path.join(folder, "project")
  const installed = path.join(project, "node_modules")
  mkdirSync(path.join(installed, "llm-gateway"), { recursive: true })
  linkPackages(installed)
  await run("tar", ["-xzf", tarball, "--strip-components=1", "-C", path.join(installed, "llm-gateway")])
  for (const [file, content] of Object.entries(files)) writeFileSync(path.join(project, file), content)
}, 240_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("the package", () => {
  it("is what publint and arethetypeswrong call clean", { timeout: 120_000 }, async () => {
    const publint = await node(
      [path.join(modules, "publint/src/cli.js"), "--pack", "false", "--strict"],
      path.join(folder, "package")
    )
    assert.include(publint.join("\n"), "All good!")
    await node(
      [path.join(modules, "@arethetypeswrong/cli/dist/index.js"), tarball, "--profile", "esm-only", "--no-color"],
      folder
    )
  })

  it("has a project that uses it type-checked", { timeout: 120_000 }, async () => {
    assert.deepStrictEqual(await node([tsc, "-p", "."], project), [""])
  })

  it("has what is missing from an app told by the type checker", { timeout: 120_000 }, async () => {
    const file = path.join(project, "missing.ts")
    writeFileSync(
      file,
      `
import { Effect, Layer } from "effect"
import { Gateway, OutboundUndici, Registries, Sandbox } from "llm-gateway"
const App = Gateway.layer().pipe(
  Layer.provideMerge(Sandbox.layer()),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer))
)
await Effect.runPromise(Effect.flatMap(Gateway, ({ models }) => models).pipe(Effect.provide(App)))
`
    )
    const problems = await node([tsc, "-p", "."], project).then(() => "", String)
    rmSync(file)
    assert.include(problems, "missing.ts")
    assert.match(problems, /ModelRegistry/)
    assert.match(problems, /TypeRegistry/)
  })

  it("is composed by an app with a provider and a usage sink of its own", { timeout: 60_000 }, async () => {
    assert.deepStrictEqual(await node(["app.ts"], project), ["HELLO", "shouting::m: 3 + 4"])
  })

  it("has a scripted provider and recorders for tests", { timeout: 60_000 }, async () => {
    assert.deepStrictEqual(await node(["testing.ts"], project), ["Hello after 2 calls, 1 record", "function"])
  })

  it(
    "serves by its own command, and its client talks to that over HTTP and over a WebSocket",
    { timeout: 120_000 },
    async () => {
      writeFileSync(
        path.join(project, "gateway.yaml"),
        "server: { port: 0 }\nproviders: { sandbox: { type: sandbox } }\ndefaults: { attempts: 1 }\nstorage: { sql: \"sqlite:./gateway.db\" }\n"
      )
      const main = path.join(project, "node_modules/llm-gateway/dist/main.js")
      const gateway = spawn(process.execPath, [main, "serve"], { cwd: project, stdio: ["ignore", "pipe", "inherit"] })
      try {
        const url = await new Promise<string>((resolve, reject) => {
          gateway.once("exit", (code) => reject(new Error(`the gateway ended with ${code}`)))
          createInterface({ input: gateway.stdout }).on("line", (line) => {
            const found = /listens on (http:\/\/[^" ]+)/.exec(line)?.[1]
            if (found !== undefined) resolve(found)
          })
        })
        const once = ["Hello!", "5", "transient"]
        assert.deepStrictEqual(await node(["rpc.ts"], project, { GATEWAY_URL: url }), [...once, ...once])
        assert.deepStrictEqual(await node(["ai.ts"], project, { GATEWAY_URL: url }), ["get_weather", "string"])
      } finally {
        gateway.kill()
      }
    }
  )

  it("holds what it needs, and no tests or sources", () => {
    const installed = path.join(project, "node_modules/llm-gateway")
    assert.includeMembers(readdirSync(installed), ["dist", "package.json", "README.md", "LICENSE"])
    assert.notIncludeMembers(readdirSync(installed), ["src", "test"])
    const map: unknown = JSON.parse(readFileSync(path.join(installed, "dist/client/GatewayClient.js.map"), "utf8"))
    assert.isTrue(typeof map === "object" && map !== null && "sourcesContent" in map)
  })
})
