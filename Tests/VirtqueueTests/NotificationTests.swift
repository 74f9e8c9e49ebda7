// A kick or a signal that is lost is a guest that hangs, and one too many is a slow guest.
import Glibc
import Synchronization
import TestKit
import Testing
import Virtqueue
import VirtqueueMock

struct NotificationTests {
    @Test(arguments: Kind.allCases) func nobodyKicksWhileKicksAreOff(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        // The first requests pass the point up to which event_idx was armed.
        #expect(!harness.enableKicks())
        _ = harness.driver.publish(try harness.request().buffers)
        #expect(harness.driver.needsKick())
        _ = harness.drain()
        harness.queue.disableKicks()
        harness.driver.publish(try harness.request().buffers)
        #expect(!harness.driver.needsKick())
    }

    @Test(arguments: Kind.allCases) func kicksComeBackOnWithASecondLook(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        harness.queue.disableKicks()
        harness.driver.publish(try harness.request().buffers)
        #expect(harness.enableKicks(), "what came before is not kicked for")
        _ = harness.drain()
        #expect(!harness.enableKicks())
        harness.driver.publish(try harness.request().buffers)
        #expect(harness.driver.needsKick())
    }

    @Test(arguments: Kind.allCases) func theFirstPublicationAfterAStartSignalsWhateverWasAsked(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        harness.driver.disableSignals()
        for expected in [true, false] {
            harness.driver.publish(try harness.request().buffers)
            let chain = try #require(harness.pop())
            harness.push(chain, written: 0)
            #expect(harness.publish() == expected)
            _ = harness.driver.collect()
            harness.driver.disableSignals()
        }
    }

    @Test(arguments: [Kind.splitEvent, .packedEvent])
    func aSignalComesAtTheBufferThatTheDriverNamed(_ kind: Kind) throws {
        // Odd sizes of batch over many laps: the wrap of both counters is passed at every offset.
        let harness = try QueueHarness(kind, size: 8)
        var random = SeededRandom(3)
        _ = harness.driver.enableSignals()
        harness.driver.publish([MockBuffer(QueueHarness.low, 8, isWritable: true)])
        _ = harness.drain()
        _ = harness.driver.collect()
        for _ in 0..<3000 {
            let count = Int.random(in: 1...8, using: &random)
            let after = Int.random(in: 1...8, using: &random)
            _ = harness.driver.enableSignals(after: after)
            for _ in 0..<count { harness.driver.publish([MockBuffer(QueueHarness.low, 8, isWritable: true)]) }
            while let chain = harness.pop() { harness.push(chain, written: 0) }
            #expect(harness.publish() == (after <= count))
            #expect(harness.driver.collect().count == count)
        }
    }

    @Test func notifyOnEmptySignalsASuppressedDriver() throws {
        let harness = try QueueHarness(.split, features: .notifyOnEmpty)
        harness.driver.publish(try harness.request().buffers)
        _ = harness.drain()
        harness.driver.disableSignals()
        harness.driver.publish(try harness.request().buffers)
        harness.driver.publish(try harness.request().buffers)
        let first = try #require(harness.pop())
        harness.push(first, written: 0)
        #expect(!harness.publish(), "one is still there")
        let second = try #require(harness.pop())
        harness.push(second, written: 0)
        #expect(harness.publish())
    }

    /// Two threads, each of which sleeps on a semaphore when it has nothing to do and was not told otherwise. A lost
    /// wake-up leaves both asleep, and the semaphore's timeout finds them.
    @Test(arguments: Kind.allCases) func noWakeUpIsLostBetweenTwoThreads(_ kind: Kind) throws {
        let harness = try QueueHarness(kind, size: 4)
        let data = try harness.buffer(64)
        let total = 20_000
        let kick = Bell()
        let call = Bell()
        let shared = Unchecked(harness)
        let isServed = Atomic(false)
        // A thread of its own: a task would wait for one of the pool, which the tests are sleeping on.
        let device = Box {
            isServed.store(Self.serve(shared, total: total, kick: kick, call: call), ordering: .releasing)
        }
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            }, Unmanaged.passRetained(device).toOpaque())
        let isDone = Self.drive(harness, data: data, total: total, kick: kick, call: call)
        #expect(isDone, "the driver waited for a signal that never came")
        pthread_join(thread, nil)
        let isAllServed = isServed.load(ordering: .acquiring)
        #expect(isAllServed, "the device waited for a kick that never came")
    }

    private static func serve(_ harness: Unchecked<QueueHarness>, total: Int, kick: Bell, call: Bell) -> Bool {
        let harness = harness.value
        var served = 0
        while served < total {
            harness.queue.disableKicks()
            while let chain = harness.queue.pop() {
                harness.queue.push(chain, written: 8)
                served += 1
            }
            if harness.queue.publish() { call.ring() }
            if harness.queue.enableKicks() { continue }
            if served < total, !kick.wait() { return false }
        }
        return true
    }

    private static func drive(_ harness: QueueHarness, data: UInt64, total: Int, kick: Bell, call: Bell) -> Bool {
        var sent = 0
        var back = 0
        while back < total {
            while sent < total, harness.driver.publish([MockBuffer(data, 8, isWritable: true)]) != nil {
                sent += 1
                if harness.driver.needsKick() { kick.ring() }
            }
            harness.driver.disableSignals()
            back += harness.driver.collect().count
            if back == sent, sent < total { continue }
            if back < total, !harness.driver.enableSignals(), !call.wait() { return false }
        }
        return true
    }
}

/// What a thread runs.
private final class Box {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
}

/// An eventfd, as far as a test needs one.
private final class Bell: Sendable {
    private let semaphore: Unchecked<UnsafeMutablePointer<sem_t>>
    init() {
        let place = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        sem_init(place, 0, 0)
        semaphore = Unchecked(place)
    }
    deinit {
        sem_destroy(semaphore.value)
        semaphore.value.deallocate()
    }
    func ring() { sem_post(semaphore.value) }
    /// False after ten seconds.
    func wait() -> Bool {
        var until = timespec()
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += 10
        while sem_timedwait(semaphore.value, &until) != 0 {
            if errno != EINTR { return false }
        }
        return true
    }
}

/// The test shares what it shares on purpose: memory between two sides of a ring.
struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
