// Which format a file is opened with when the user named none. A guess is right for reading only, and only between qcow2 and
// raw: what carries another format's signature is refused by name, and for writing the user has to say the format.

public import DiskTypes
import LinuxIO
import QCOW2
public import SystemPackage

extension ImageFormat {
    /// The format that the signature of `file` says: raw where it has none. Throws `.unsupported` for a file that carries the
    /// signature of a format that is not read; `role` is nil for the image that the user named.
    ///
    /// For files that are only read. A guest that owns a raw disk can write any header into it.
    public static func probe(_ file: some ByteSource, role: String? = nil) throws(ImageError) -> ImageFormat {
        if let foreign = try ForeignFormat.probe(file) { throw foreign.refusal(role: role) }
        return QCOW2Image.probe(try file.read(at: HostOffset(0), count: 4)) ? .qcow2 : .raw
    }

    /// The format to open `path` with: the one that the user named; for reading, without one, nil (`probe` says it then). For
    /// writing a format that is not named is never guessed: only a file whose name ends in `.qcow2` may be what both its
    /// name and its signature say. Anything else is an error that says what the file is and what to do.
    public static func required(
        _ named: ImageFormat?, path: FilePath, readOnly: Bool
    ) throws(ImageError) -> ImageFormat? {
        if named != nil || readOnly { return named }
        do throws(ImageError) {
            let file = try HostFile.open(path: path, direct: .never)
            let isNamedQCOW2 = path.name.hasSuffix(".qcow2")
            switch try probe(file) {
            case .qcow2 where isNamedQCOW2: return .qcow2
            case .qcow2:
                throw ImageError.unsupported(
                    "the file is a qcow2 image by its signature, which is not enough for a disk that is written",
                    advice: "say -f qcow2, or -f raw to take it as it is")
            case .raw where isNamedQCOW2:
                throw ImageError.malformed(
                    "the file is no qcow2 image, though its name ends in .qcow2",
                    advice: "say -f raw to take it as it is")
            case .raw:
                throw ImageError.unsupported(
                    "the format is not guessed for a disk that is written", advice: "say -f raw, or its format")
            }
        } catch {
            throw error.named(path)
        }
    }

    /// Refuses an existing output that carries an image's signature: written as raw it would be destroyed.
    public static func requirePlain(output path: FilePath) throws(ImageError) {
        let found: String
        do throws(ImageError) {
            let file = try HostFile.open(path: path, direct: .never)
            if let foreign = try ForeignFormat.probe(file) {
                found = foreign.name
            } else if try probe(file) == .qcow2 {
                found = "a qcow2 image"
            } else {
                return
            }
        } catch {
            throw error.named(path)
        }
        let advice =
            found.contains("qcow2") ? "say -O qcow2, or -O raw to write over it" : "say -O raw to write over it"
        throw ImageError(.unsupported, "the output is \(found)", advice: advice, path: path)
    }

    /// The format an image says its backing file has; nil where it says nothing.
    package static func named(_ name: String?) throws(ImageError) -> ImageFormat? {
        guard let name else { return nil }
        // QEMU's name for the file itself, without a format of its own.
        if name == "file" { return .raw }
        guard let format = ImageFormat(rawValue: name) else {
            throw .unsupported(
                "the backing file's format \"\(printable(name))\" is not known", advice: "qcow2 and raw are")
        }
        return format
    }
}

extension ForeignFormat {
    /// Why a file of this format is not opened, and what to do.
    func refusal(role: String?) -> ImageError {
        let raw = role == nil ? "say -f raw to take it as it is" : "record its format as raw to take it as it is"
        let way = self == .luks ? "" : "convert it with qemu-img convert -f \(rawValue), or "
        return .unsupported("the file is \(name), which is not read", advice: way + raw)
    }
}
