// Why this file exists: the two ways a worker waits and works.
//
//     calm   nothing under way: sleep in read(2), carry the one request, write(2) the reply. Three system calls.
//     busy   reads of /dev/fuse, image reads and replies of many requests go to the kernel together, one call a round.
//
// A request that was there already when the calm gait asked for it means that more are queued: change to busy. When a
// busy round finds no request and nothing is under way, change back.
import BlockEngine
import CQblk
import Glibc
import LinuxIO

/// Whose completion it is, in the top byte of the ring's user data (bit 63 is the engine's).
private enum Tag {
    static let request: UInt64 = 1 << 56
    static let reply: UInt64 = 2 << 56
    static let poll: UInt64 = 3 << 56
    static let kinds: UInt64 = 0xff << 56
    static let index: UInt64 = 0xffff
}

extension FuseWorker {
    /// A request that is read within this time was waiting; one that comes as the consequence of our last reply
    /// cannot be that fast.
    private static var queuedNanoseconds: Int64 { 2_000 }
    /// So many of them in a row change the gait.
    private static var hurriedLimit: Int { 2 }

    // MARK: calm

    func calm() {
        setNonblocking(false)
        let asked = Self.now()
        let buffer = requests.take()
        let count = Glibc.read(fuse, requests.bytes(buffer), requests.size)
        guard count > 0 else {
            requests.give(buffer)
            if count < 0 { note(0 &- errno) } else { ended = true }
            return
        }
        hurried = Self.now() &- asked < Self.queuedNanoseconds ? hurried &+ 1 : 0
        if hurried >= Self.hurriedLimit {
            hurried = 0
            drained = false
            batch = 4
        }
        requests.enqueue(buffer, length: Int32(truncatingIfNeeded: count))
        serveLine()
        finishSynchronously()
    }

    /// Waits for the one request and answers it.
    private func finishSynchronously() {
        while true {
            while let done = engine.nextFinished() {
                let length = seal(done)
                _ = Glibc.write(fuse, pool.start(Int(done.slot)), length)
                pool.give(Int(done.slot))
            }
            guard engine.inFlight > 0 else { return }
            ring.submitAndWait(1)
            drain()
        }
    }

    @inline(__always) private static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }

    // MARK: busy

    func busy() {
        setNonblocking(true)
        postReplies()
        postReads()
        ring.submitAndWait(1)
        found = 0
        let posted = readsPosted
        drain()
        if posted > 0, readsPosted == 0 {
            // Reads are asked for in order: one that found nothing means that the rest found nothing either.
            drained = found < posted
            batch = drained ? found &+ 1 : min(batch &* 2, Self.batchLimit)
        }
        serveLine()
        collect()
    }

    /// READs for as many requests as are likely there; else a poll, so that the wait ends when the next one comes.
    private func postReads() {
        if drained, repliesInFlight > 0 || unsentCount > 0 { drained = false }
        guard readsPosted == 0 else { return }
        if drained || requests.free == 0 {
            if drained, !pollArmed, ring.preparePollAdd(fd: fuse, events: UInt32(POLLIN), userData: Tag.poll) {
                pollArmed = true
            }
            return
        }
        for _ in 0..<min(batch, requests.free) {
            let buffer = requests.take()
            guard
                ring.prepareRead(
                    fd: fuse, buffer: requests.bytes(buffer), count: UInt32(truncatingIfNeeded: requests.size),
                    offset: Ring.currentPosition, userData: Tag.request | UInt64(buffer))
            else { return requests.give(buffer) }
            readsPosted &+= 1
        }
    }

    /// Takes finished reads from the engine to the ring.
    @inline(__always) private func collect() {
        while let done = engine.nextFinished() {
            send(Int(done.slot), seal(done))
        }
    }

    @inline(__always) private func send(_ buffer: Int, _ length: Int) {
        guard
            ring.prepareWrite(
                fd: fuse, buffer: pool.start(buffer), count: UInt32(truncatingIfNeeded: length),
                offset: Ring.currentPosition, userData: Tag.reply | UInt64(buffer))
        else {
            unsent[unsentCount] = UInt16(truncatingIfNeeded: buffer)
            unsentCount &+= 1
            return
        }
        repliesInFlight &+= 1
    }

    /// Replies that found no room before.
    @inline(__always) private func postReplies() {
        while unsentCount > 0 {
            unsentCount &-= 1
            let buffer = Int(unsent[unsentCount])
            let before = unsentCount
            send(buffer, Int(pool.start(buffer).load(as: fuse_out_header.self).len))
            if unsentCount > before { return }
        }
    }

    // MARK: completions

    @inline(__always) private func drain() {
        ring.drain { userData, result in
            if RequestEngine.owns(userData) {
                engine.complete(userData, result)
                return
            }
            let index = Int(userData & Tag.index)
            switch userData & Tag.kinds {
            case Tag.reply:
                // A request that was given up meanwhile (ENOENT) has nobody to answer to; a lost connection shows at
                // the next read.
                repliesInFlight &-= 1
                pool.give(index)
            case Tag.request:
                readsPosted &-= 1
                if result > 0 {
                    found &+= 1
                    requests.enqueue(index, length: result)
                } else {
                    requests.give(index)
                    note(result)
                }
            default:
                pollArmed = false
                drained = false
            }
        }
    }

    /// What a read of /dev/fuse that brought no request means.
    @inline(__always) private func note(_ result: Int32) {
        switch 0 &- result {
        case EAGAIN, EINTR, ENOENT: break
        default: ended = true
        }
    }
}
