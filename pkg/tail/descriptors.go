package tail

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	// Services may use these for what they take and answer.
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

// maxDescriptors bounds a file of descriptors, in bytes.
const maxDescriptors = 64 << 20

// Learn makes the messages of a file known to this process, by which Decode finds them:
// a FileDescriptorSet with all imports, as protoc and buf write it. What is known already
// stays as it is.
func Learn(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("tail: descriptors: %w", err)
	}
	if info.Size() > maxDescriptors {
		return fmt.Errorf("tail: descriptors: %s is larger than %d bytes", path, maxDescriptors)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("tail: descriptors: %w", err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(b, set); err != nil || len(set.GetFile()) == 0 {
		return fmt.Errorf("tail: descriptors: %s is no FileDescriptorSet; make one with: protoc --include_imports --descriptor_set_out=FILE, or: buf build -o FILE", path)
	}
	for _, one := range set.GetFile() {
		if _, err := protoregistry.GlobalFiles.FindFileByPath(one.GetName()); err == nil {
			continue
		}
		// Imports stand before what imports them.
		if err := learn(one); err != nil {
			return fmt.Errorf("tail: descriptors: %s of %s: %w", one.GetName(), path, err)
		}
	}
	return nil
}

// learn makes the messages of one file known. The registry panics where a name is known
// already, as that of a file is which somebody has under another path.
func learn(one *descriptorpb.FileDescriptorProto) (err error) {
	defer func() {
		if p := recover(); p != nil {
			text, _, _ := strings.Cut(fmt.Sprint(p), "\n")
			err = fmt.Errorf("%s: is it the path by which it is imported?", text)
		}
	}()
	file, err := protodesc.NewFile(one, protoregistry.GlobalFiles)
	if err != nil {
		return err
	}
	if err := protoregistry.GlobalFiles.RegisterFile(file); err != nil {
		return err
	}
	return register(file.Messages())
}

func register(all protoreflect.MessageDescriptors) error {
	var errs []error
	for i := range all.Len() {
		m := all.Get(i)
		if m.IsMapEntry() {
			continue
		}
		errs = append(errs, protoregistry.GlobalTypes.RegisterMessage(dynamicpb.NewMessageType(m)), register(m.Messages()))
	}
	return errors.Join(errs...)
}
