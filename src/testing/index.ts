/** For the tests of apps: `llm-gateway/testing`. A provider that answers by a script, and recorders of what is written down. */
export * as Recorder from "./Recorder.ts"
export * as ScriptedProvider from "./ScriptedProvider.ts"
