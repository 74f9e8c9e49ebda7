// A guest can move to another host while it runs. Its image then has a server at either end, of which one at most may
// hold it: that one whose rings run. This is the image as its export has it, here or elsewhere.
public import DiskTypes
import Glibc
public import ImageChain
import LinuxIO
import Synchronization

/// Opens an export's image anew, with its locks.
public typealias ImageOpener = @Sendable () throws(ImageError) -> ImageChain

/// The image of an export. Its sessions take it before the first ring starts; in a migration they give it away once the
/// last one has stopped.
final class MigratableImage: Sendable {
    private enum Place {
        case here(ImageChain)
        /// Another server may have it: what was known of it is known no more.
        case elsewhere
    }

    private let place: Mutex<Place>
    /// Nil: the image never leaves this server.
    private let open: ImageOpener?

    init(_ chain: ImageChain?, open: ImageOpener?) {
        place = Mutex(chain.map { .here($0) } ?? .elsewhere)
        self.open = open
    }

    /// Nil while it is elsewhere.
    var chain: ImageChain? {
        place.withLock { if case .here(let chain) = $0 { chain } else { nil } }
    }

    /// The image, opened anew if it was elsewhere.
    func acquire() throws(ImageError) -> (chain: ImageChain, isNew: Bool) {
        try place.withLock { place in
            Result { () throws(ImageError) in
                if case .here(let chain) = place { return (chain, false) }
                guard let open else { throw ImageError(.system, "the image has been given away") }
                let chain = try open()
                place = .here(chain)
                return (chain, true)
            }
        }.get()
    }

    /// Brings everything to the disk and gives the image's locks back. No request may be in flight. False: it stays here
    /// for good. When it throws, it is still here: another server must not open what is incomplete.
    func release() throws(ImageError) -> Bool {
        try place.withLock { place in
            Result { () throws(ImageError) in
                guard open != nil, case .here(let chain) = place else { return false }
                // Flushes fail here for good, and would succeed at the other end.
                guard chain.flushed(0, buffered: true) == 0, chain.writer?.plan.hasFailedSync != true else {
                    throw ImageError(.system, "a flush has failed: the guest cannot take its image along")
                }
                try chain.writer?.flushAndIdle()
                // A host that shares the storage sees what has been synced, no more.
                try sync(chain)
                place = .elsewhere
                try chain.closeAndUnlock()
                return true
            }
        }.get()
    }

    private func sync(_ chain: ImageChain) throws(ImageError) {
        do throws(ImageError) { for file in chain.files where file.isWritable { try file.sync() } } catch {
            // The kernel reports it once; each later flush must report it, too.
            _ = chain.flushed(error.answer, buffered: true)
            chain.writer?.foundLoss(error.answer)
            throw error
        }
    }
}
