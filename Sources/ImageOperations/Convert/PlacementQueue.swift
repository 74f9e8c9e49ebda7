// Workers finish their pieces in any order, but an image that is laid out in the guest's order reads faster and needs
// no more memory than one L2 table. So places are given out in order: a piece that comes early waits here (its worker
// does not: it goes on with others), and the worker that closes the gap serves all that waited.

import DiskTypes
import LinuxIO
import QCOW2
import Synchronization

/// Gives pieces their places in a new image.
final class PlacementQueue: Sendable {
    /// What a worker hears.
    struct Placed: Sendable {
        let slot: Int
        let placement: ChunkPlacement
    }

    /// A piece that knows what becomes of its clusters.
    struct Request: Sendable {
        let number: UInt64
        let guest: GuestOffset
        /// Nothing to place: the number only has to be passed.
        var fates: [ClusterEncoding] = []
        let slot: Int
        let owner: Mailbox<Placed>
    }

    private struct State {
        var assembler: SequentialImageWriter
        var next: UInt64 = 0
        var waiting: [UInt64: Request] = [:]
    }
    private let state: Mutex<State>

    init(_ image: NewImage) { state = Mutex(State(assembler: SequentialImageWriter(image))) }

    /// Takes a piece; every number has to come once. Its owner hears of the place, perhaps from another thread.
    func add(_ request: Request) throws(ImageError) {
        let failure = state.withLock { state -> ImageError? in
            state.waiting[request.number] = request
            while let ready = state.waiting.removeValue(forKey: state.next) {
                do throws(ImageError) {
                    let placement = try state.assembler.place(ready.guest, ready.fates)
                    ready.owner.post(Placed(slot: ready.slot, placement: placement))
                } catch {
                    return error
                }
                state.next += 1
            }
            return nil
        }
        if let failure { throw failure }
    }

    /// The tables that are left, when all of `count` pieces have come: an image with a gap must never get its header.
    func finish(_ count: UInt64) throws(ImageError) -> FinishedImage {
        try state.withLock { state in
            Result { () throws(ImageError) in
                guard state.next == count else { throw ImageError(.system, "a piece of the disk was not written") }
                return try state.assembler.finish()
            }
        }.get()
    }
}
