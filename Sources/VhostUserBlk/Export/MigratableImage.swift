// The image of an export, which is open here or released to another server. A guest can move to another host while it
// runs; its image then has a server at either end, of which only the one whose rings run may have the image open for
// writing.
public import DiskTypes
import Glibc
public import ImageChain
import LinuxIO
import Synchronization

/// Opens an export's image again, with its locks.
public typealias ImageOpener = @Sendable () throws(ImageError) -> ImageChain

/// The image of an export. A session acquires it before the first ring starts; in a migration it releases it after the
/// last ring has stopped.
/// last one has stopped.
final class MigratableImage: Sendable {
    private enum Place {
        case here(ImageChain)
        /// Released: another server may have the image, so nothing cached about it is valid.
        case elsewhere
    }

    private let place: Mutex<Place>
    /// Nil: the image is never released.
    private let open: ImageOpener?

    init(_ chain: ImageChain?, open: ImageOpener?) {
        place = Mutex(chain.map { .here($0) } ?? .elsewhere)
        self.open = open
    }

    /// Nil while it is released.
    var chain: ImageChain? {
        place.withLock { if case .here(let chain) = $0 { chain } else { nil } }
    }

    /// The image, opened again if it was released. Throws the error of opening it.
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

    /// Brings everything to the disk and releases the image's locks. No request may be in flight. False: it is not
    /// released, because there is no `open`. When it throws, it is not released either: another server must not open
    /// what is incomplete.
    func release() throws(ImageError) -> Bool {
        try place.withLock { place in
            Result { () throws(ImageError) in
                guard open != nil, case .here(let chain) = place else { return false }
                // In this process every later flush fails; in the other one it would succeed.
                guard chain.flushed(0, buffered: true) == 0, chain.writer?.plan.hasFailedSync != true else {
                    throw ImageError(.system, "a flush has failed: the guest cannot take its image along")
                }
                try chain.writer?.flushAndIdle()
                // A host that shares the storage sees only what has been synced.
                try sync(chain)
                place = .elsewhere
                try chain.closeAndUnlock()
                return true
            }
        }.get()
    }

    private func sync(_ chain: ImageChain) throws(ImageError) {
        do throws(ImageError) { for file in chain.files where file.isWritable { try file.sync() } } catch {
            // The kernel reports the error once; each later flush must report it, too.
            _ = chain.flushed(error.answer, buffered: true)
            chain.writer?.foundLoss(error.answer)
            throw error
        }
    }
}
