// One pass of a worker: takes completions from its io_uring, takes chains from every queue, gives them to the engines,
// and gives back what is done. A queue gets one publication and at most one signal in a pass.
import BlockEngine
import DiskTypes
import Glibc
import LinuxIO
import Virtqueue

extension QueueWorker {
    @inline(never) func runOnce() {
        moved = false
        let drained = ring.drain { userData, result in
            if RequestEngine.owns(userData) {
                let queue = unsafe queues + RequestEngine.number(of: userData)
                unsafe queue.pointee.engine._withUnsafeGuaranteedRef { $0.complete(userData, result) }
            } else {
                takeOwn(userData, result)
            }
        }
        if drained > 0 { moved = true }
        for i in 0..<activeCount { unsafe serve(Int(active[i])) }
    }

    @inline(__always) private func serve(_ place: Int) {
        let queue = unsafe queues + place
        var pushed = false
        if unsafe queue.pointee.isOpen { pushed = unsafe take(queue) }
        unsafe queue.pointee.engine._withUnsafeGuaranteedRef { engine in
            engine.submit()
            while let done = engine.nextFinished() {
                let chain = unsafe queue.pointee.virtqueue.chain(Int(done.slot))
                let status = unsafe done.error == 0 ? RequestStatus.ok : failed(queue, done)
                unsafe queue.pointee.virtqueue.push(chain, written: VirtioBlk.finish(chain, status))
                pushed = true
            }
        }
        guard pushed else { return }
        moved = true
        if unsafe queue.pointee.virtqueue.publish(), unsafe queue.pointee.callFD >= 0 {
            unsafe signal(queue.pointee.callFD)
        }
    }

    /// Takes chains from the queue; true when some were answered at once.
    @inline(__always) private func take(_ queue: UnsafeMutablePointer<ServedQueue>) -> Bool {
        var answered = false
        var taken = 0
        var bytes = 0
        let most = unsafe queue.pointee.batch
        while taken < most, bytes < Self.batchBytes, let chain = unsafe queue.pointee.virtqueue.pop() {
            taken &+= 1
            switch unsafe VirtioBlk.decode(chain, queue.pointee.disk) {
            case .request(let request):
                bytes &+= Int(truncatingIfNeeded: request.length & 0x7fff_ffff)
                unsafe queue.pointee.engine._withUnsafeGuaranteedRef { $0.submit(request) }
            case .answered(let written):
                unsafe queue.pointee.virtqueue.push(chain, written: written)
                answered = true
            }
        }
        if taken > 0 { moved = true } else if unsafe queue.pointee.virtqueue.damage != .none { unsafe broken(queue) }
        return answered
    }

    /// Signals the driver. The descriptor does not block: when its counter is full, the driver has a signal already.
    @inline(__always) func signal(_ fd: Int32) {
        var one: UInt64 = 1
        while unsafe write(fd, &one, 8) < 0, errno == EINTR {}
    }

    // MARK: errors and the worker's own completions

    @inline(never) private func failed(
        _ queue: UnsafeMutablePointer<ServedQueue>, _ done: RequestEngine.Finished
    ) -> RequestStatus {
        if unsafe !queue.pointee.saidDamage {
            unsafe queue.pointee.saidDamage = true
            let why = done.damage.map { "\($0)" } ?? errorText(done.error)
            log.error(unsafe "\(queue.pointee.settings.name): a request fails: \(why)")
        }
        return .ioError
    }

    @inline(never) private func broken(_ queue: UnsafeMutablePointer<ServedQueue>) {
        unsafe queue.pointee.reopen()
        guard unsafe !queue.pointee.saidBroken else { return }
        unsafe queue.pointee.saidBroken = true
        log.error(
            unsafe "\(queue.pointee.settings.name): queue \(queue.pointee.id.index) stops: \(queue.pointee.virtqueue.damage.message)"
        )
        if let err = unsafe queue.pointee.err { signal(err.raw) }
    }

    /// Completions of the worker's own operations, not of an engine's.
    @inline(never) private func takeOwn(_ userData: UInt64, _ result: Int32) {
        switch userData & WorkerTag.kinds {
        case WorkerTag.mailbox:
            mailboxArmed = false
            mailWaits = true
        case WorkerTag.kick:
            kicked(Int(userData & WorkerTag.index), result)
        default: break
        }
    }

    /// The kick descriptor is readable, or cannot be polled any more.
    private func kicked(_ place: Int, _ result: Int32) {
        unsafe queues[place].kickArmed = false
        guard let kick = unsafe queues[place].kick else { return }
        var count: UInt64 = 0
        if result > 0, result & 1 != 0 { _ = unsafe read(kick.raw, &count, 8) }
        if result != -ECANCELED, result < 0 || result & 1 == 0 {
            unsafe queues[place].kickFailed = true
            unsafe queues[place].reopen()
            log.error(
                unsafe "\(queues[place].settings.name): the kick descriptor of queue \(queues[place].id.index) is useless"
            )
        }
        if case .stopping = unsafe queues[place].state { hasEnds = true }
    }
}
