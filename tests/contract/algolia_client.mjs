// The official JavaScript clients, unchanged but for the host. Prints what happened as JSON.
import { ingestionClient } from "@algolia/ingestion";
import { algoliasearch } from "algoliasearch";

const [port, key, csv] = process.argv.slice(2);
const host = { url: "127.0.0.1", port: Number(port), protocol: "http", accept: "readWrite" };
const make = options => ingestionClient("default", key, "us", { hosts: [host], ...options });
const told = {};
const client = make();

const authentication = await client.createAuthentication({
  type: "basic", name: "js", input: { username: "u", password: "p" } });
told.authentication = await client.getAuthentication({ authenticationID: authentication.authenticationID });
const source = await client.createSource({
  type: "csv", name: "js", input: { url: csv, uniqueIDColumn: "sku", mapping: { n: "integer" } } });
const destination = await client.createDestination({
  type: "search", name: "js", input: { indexName: "FromJs" } });
const task = await client.createTask({
  sourceID: source.sourceID, destinationID: destination.destinationID, action: "replace" });
const { runID } = await client.runTask({ taskID: task.taskID });
do {
  await new Promise(go => setTimeout(go, 100));
  told.run = await client.getRun({ runID });
} while (told.run.status !== "finished");

// Chunked bodies without a length, credentials in the query, gzip.
const push = await client.createSource({ type: "push", name: "js" });
const pushTask = await client.createTask({
  sourceID: push.sourceID, destinationID: destination.destinationID, action: "save" });
const other = make({ authMode: "WithinQueryParameters", compression: "gzip" });
const records = Array.from({ length: 300 }, (_, n) => ({ objectID: `js${n}`, n }));
told.watched = await other.pushTask({
  taskID: pushTask.taskID, pushTaskPayload: { action: "addObject", records }, watch: true });
const long = Array.from({ length: 1200 }, (_, n) => ({ objectID: `chunk${n}`, n }));
told.chunks = (await client.chunkedPush({
  indexName: "FromJs", objects: long, action: "addObject", waitForTasks: true })).length;
told.tasks = (await other.listTasks({ sourceType: ["csv", "push"], action: ["replace", "save"] })).tasks.length;
try {
  await client.getTask({ taskID: "01a00000-0000-7000-8000-000000000000" });
} catch (error) {
  told.missing = { status: error.status, name: error.name };
}
try {
  await ingestionClient("default", "wrong", "us", { hosts: [host] }).listTasks();
} catch (error) {
  told.refused = { status: error.status, message: error.message };
}

const search = algoliasearch("default", key, {
  hosts: [host], transformationOptions: { region: "us", hosts: [host] } });
await search.saveObjectsWithTransformation({
  indexName: "FromJs", objects: [{ objectID: "last", n: -1 }], waitForTasks: true });
told.last = await search.getObject({ indexName: "FromJs", objectID: "last" });
told.hits = (await search.searchSingleIndex({
  indexName: "FromJs", searchParams: { query: "", hitsPerPage: 0 } })).nbHits;
console.log(JSON.stringify(told));
