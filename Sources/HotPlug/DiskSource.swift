// The image or block device that is to be plugged in, opened before a VM is changed. An image is served by `qblk
// serve`; a block device is opened by QEMU itself.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import SystemPackage

/// The source of a disk, as `attach` found it.
struct DiskSource {
    /// Absolute, without links: the server has another working folder.
    let path: FilePath
    let isDevice: Bool
    let format: String
    let size: UInt64
    /// The files of an image: its server gets them, whatever their names lead to later. Nil for a device, which QEMU
    /// opens.
    let files: HeldFiles?

    init(_ options: AttachOptions) throws(ImageError) {
        do throws(Errno) { path = try options.image.realPath() } catch {
            throw ImageError(.system, "cannot open: \(errorText(error.rawValue))", path: options.image)
        }
        let isBlock = path.fileType == S_IFBLK
        // A device with a format in it (--format qcow2) is an image.
        isDevice = isBlock && (options.open.format ?? .raw) == .raw && options.open.snapshot == nil
        var open = options.open
        if isDevice {
            if open.format == nil { try Self.requirePlain(path) }
            open.format = .raw
        }
        // The server takes the locks.
        open.lock = false
        // Opened by the name that was given, not by the file's real one: names in the header count from the given
        // name's folder.
        open.identity = Filesystem.identity(of: path)
        let chain: ImageChain
        do throws(ImageError) { chain = try ImageChain.open(path: options.image, options: open) } catch {
            throw error.named(options.image)
        }
        format = chain.layers[0].format.rawValue
        size = chain.size
        files = isDevice ? nil : try HeldFiles(chain, writable: !options.readOnly)
    }

    /// Throws for a device that holds an image: given to the VM as it is, the guest would write over it.
    private static func requirePlain(_ device: FilePath) throws(ImageError) {
        do throws(ImageError) {
            let file = try HostFile.open(path: device, direct: .never)
            guard try ImageFormat.probe(file) == .raw else {
                throw .unsupported(
                    "the device holds a qcow2 image", advice: "say -f qcow2, or -f raw to take the device as it is")
            }
        } catch {
            throw error.named(device)
        }
    }
}
