// The files of an image that a server inherits from `attach`: their descriptors, and what each file must be, as an
// argument. The server must have the very files that `attach` opened.

import DiskTypes
import ImageChain
import MapRegistry

enum InheritedFiles {
    /// The number of the first file's descriptor; the same as in `HotPlug`.
    private static let first: Int32 = 10

    /// Takes the descriptors that `text` describes, an array of `KnownFile` in JSON.
    static func decoded(_ text: String) throws(ImageError) -> HeldFiles {
        guard let known = RecordCoding.decode([KnownFile].self, text.utf8) else {
            throw ImageError(.malformed, "--opened-files is not what attach says")
        }
        return HeldFiles(inherited: known, from: first)
    }
}
