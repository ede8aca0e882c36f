// The package etcd3 of Node (grpc-js' own transport) against an empty server: address, and with TLS the folder of ca.crt,
// client.crt and client.key. Every step asserts on its answer.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import { Etcd3, EtcdPermissionDeniedError } from 'etcd3';

const [address, certificates] = process.argv.slice(2);
const file = (name) => readFileSync(`${certificates}/${name}`);
const options = certificates
  ? {
      hosts: `https://${address}`,
      credentials: {
        rootCertificate: file('ca.crt'),
        certChain: file('client.crt'),
        privateKey: file('client.key'),
      },
    }
  : { hosts: `http://${address}` };

async function putsAndGets(client) {
  await client.put('a').value('1');
  assert.equal(await client.get('a').string(), '1');
  assert.equal(await client.get('absent').string(), null);
  await Promise.all(['p/0', 'p/1', 'p/2'].map((key) => client.put(key).value(key)));
  assert.deepEqual(await client.getAll().prefix('p/').sort('Key', 'Descend').keys(), ['p/2', 'p/1', 'p/0']);
  assert.equal(await client.getAll().prefix('p/').count(), 3);
  const removed = await client.delete().prefix('p/');
  assert.equal(removed.deleted, '3');
}

async function transactions(client) {
  await client.put('t').value('1');
  const swap = (from, to) =>
    client.if('t', 'Value', '==', from).then(client.put('t').value(to)).else(client.get('t')).commit();
  assert.equal((await swap('1', '2')).succeeded, true);
  assert.equal((await swap('1', '3')).succeeded, false);
  const memory = client.stm();
  await memory.transact(async (tx) => tx.put('t').value(`${await tx.get('t').string()}!`));
  assert.equal(await client.get('t').string(), '2!');
}

async function watches(client) {
  const watcher = await client.watch().key('w').create();
  const seen = once(watcher, 'put');
  await client.put('w').value('1');
  const [pair] = await seen;
  assert.equal(pair.value.toString(), '1');
  const gone = once(watcher, 'delete');
  await client.delete().key('w');
  await gone;
  await watcher.cancel();
}

async function leases(client) {
  const lease = client.lease(30);
  await lease.put('l').value('1');
  assert.equal(await client.get('l').string(), '1');
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await client.get('l').string(), null);
}

async function locks(client) {
  const lock = client.lock('name').ttl(30);
  await lock.acquire();
  await assert.rejects(client.lock('name').ttl(30).acquire(), /already locked|Lock/i);
  await lock.release();
  await client.lock('name').ttl(30).do(async () => {});
}

async function elections(client) {
  const election = client.election('who', 30);
  const one = election.campaign('one');
  await once(one, 'elected');
  const observer = await election.observe();
  if (observer.leader() !== 'one') await once(observer, 'change');
  assert.equal(observer.leader(), 'one');
  await one.proclaim('still one');
  assert.equal(await election.leader(), 'still one');
  await observer.cancel();
  await one.resign();
}

async function users(client) {
  const root = client.user('root');
  await root.create('secret');
  await client.role('root').create();
  await root.addRole('root');
  const reader = client.role('reader');
  await reader.create();
  await reader.grant({ permission: 'Read', range: client.range({ prefix: 'public/' }) });
  await client.user('alice').create('word');
  await client.user('alice').addRole('reader');
  await client.put('public/a').value('1');
  await client.auth.authEnable();
  const as = (username, password) => new Etcd3({ ...options, auth: { username, password } });
  const alice = as('alice', 'word');
  assert.equal(await alice.get('public/a').string(), '1');
  await assert.rejects(alice.put('public/a').value('2').exec(), EtcdPermissionDeniedError);
  alice.close();
  const admin = as('root', 'secret');
  await admin.auth.authDisable();
  admin.close();
}

const client = new Etcd3(options);
for (const step of [putsAndGets, transactions, watches, leases, locks, elections, users]) {
  await step(client);
}
client.close();
console.log(`etcd3 of Node${certificates ? ' over TLS' : ''}: every answer is as expected`);
