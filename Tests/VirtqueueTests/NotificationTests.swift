// Why this file exists: a kick or a signal that is lost is a guest that hangs, and one too many is a slow guest.
import Glibc
import Synchronization
import Testing
import Virtqueue
import VirtqueueMock

struct NotificationTests {
    @Test(arguments: Kind.allCases) func nobodyKicksWhileKicksAreOff(_ kind: Kind) throws {
        let rig = try Rig(kind)
        // The first requests pass the point up to which event_idx was armed.
        #expect(!rig.enableKicks())
        _ = rig.driver.publish(try rig.request().buffers)
        #expect(rig.driver.needsKick())
        _ = rig.drain()
        rig.queue.disableKicks()
        rig.driver.publish(try rig.request().buffers)
        #expect(!rig.driver.needsKick())
    }

    @Test(arguments: Kind.allCases) func kicksComeBackOnWithASecondLook(_ kind: Kind) throws {
        let rig = try Rig(kind)
        rig.queue.disableKicks()
        rig.driver.publish(try rig.request().buffers)
        #expect(rig.enableKicks(), "what came before is not kicked for")
        _ = rig.drain()
        #expect(!rig.enableKicks())
        rig.driver.publish(try rig.request().buffers)
        #expect(rig.driver.needsKick())
    }

    @Test(arguments: Kind.allCases) func theFirstPublicationAfterAStartSignalsWhateverWasAsked(_ kind: Kind) throws {
        let rig = try Rig(kind)
        rig.driver.disableSignals()
        for expected in [true, false] {
            rig.driver.publish(try rig.request().buffers)
            let chain = try #require(rig.pop())
            rig.push(chain, written: 0)
            #expect(rig.publish() == expected)
            _ = rig.driver.collect()
            rig.driver.disableSignals()
        }
    }

    @Test(arguments: [Kind.splitEvent, .packedEvent])
    func aSignalComesAtTheBufferThatTheDriverNamed(_ kind: Kind) throws {
        // Odd sizes of batch over many laps: the wrap of both counters is passed at every offset.
        let rig = try Rig(kind, size: 8)
        var random = Random(3)
        _ = rig.driver.enableSignals()
        rig.driver.publish([MockBuffer(Rig.low, 8, isWritable: true)])
        _ = rig.drain()
        _ = rig.driver.collect()
        for _ in 0..<3000 {
            let count = Int.random(in: 1...8, using: &random)
            let after = Int.random(in: 1...8, using: &random)
            _ = rig.driver.enableSignals(after: after)
            for _ in 0..<count { rig.driver.publish([MockBuffer(Rig.low, 8, isWritable: true)]) }
            while let chain = rig.pop() { rig.push(chain, written: 0) }
            #expect(rig.publish() == (after <= count))
            #expect(rig.driver.collect().count == count)
        }
    }

    @Test func notifyOnEmptySignalsASuppressedDriver() throws {
        let rig = try Rig(.split, features: .notifyOnEmpty)
        rig.driver.publish(try rig.request().buffers)
        _ = rig.drain()
        rig.driver.disableSignals()
        rig.driver.publish(try rig.request().buffers)
        rig.driver.publish(try rig.request().buffers)
        let first = try #require(rig.pop())
        rig.push(first, written: 0)
        #expect(!rig.publish(), "one is still there")
        let second = try #require(rig.pop())
        rig.push(second, written: 0)
        #expect(rig.publish())
    }

    /// Two threads, each of which sleeps on a semaphore when it has nothing to do and was not told otherwise. A lost
    /// wake-up leaves both asleep, and the semaphore's timeout finds them.
    @Test(arguments: Kind.allCases) func noWakeUpIsLostBetweenTwoThreads(_ kind: Kind) throws {
        let rig = try Rig(kind, size: 4)
        let data = try rig.buffer(64)
        let total = 20_000
        let kick = Bell()
        let call = Bell()
        let shared = Unchecked(rig)
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
        let isDone = Self.drive(rig, data: data, total: total, kick: kick, call: call)
        #expect(isDone, "the driver waited for a signal that never came")
        pthread_join(thread, nil)
        let isAllServed = isServed.load(ordering: .acquiring)
        #expect(isAllServed, "the device waited for a kick that never came")
    }

    private static func serve(_ rig: Unchecked<Rig>, total: Int, kick: Bell, call: Bell) -> Bool {
        let rig = rig.value
        var served = 0
        while served < total {
            rig.queue.disableKicks()
            while let chain = rig.queue.pop() {
                rig.queue.push(chain, written: 8)
                served += 1
            }
            if rig.queue.publish() { call.ring() }
            if rig.queue.enableKicks() { continue }
            if served < total, !kick.wait() { return false }
        }
        return true
    }

    private static func drive(_ rig: Rig, data: UInt64, total: Int, kick: Bell, call: Bell) -> Bool {
        var sent = 0
        var back = 0
        while back < total {
            while sent < total, rig.driver.publish([MockBuffer(data, 8, isWritable: true)]) != nil {
                sent += 1
                if rig.driver.needsKick() { kick.ring() }
            }
            rig.driver.disableSignals()
            back += rig.driver.collect().count
            if back == sent, sent < total { continue }
            if back < total, !rig.driver.enableSignals(), !call.wait() { return false }
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
